-- $1 days, $2 at most. Incidents of hosts and system types that are open or ended lately, without anything that names a customer. Latest first.
select scope, systems, since, closed_at, case when closed_at is not null then 'closed' when calm_since is not null then 'recovering' else 'open' end as state
from incident
where scope <> 'connection' and (closed_at is null or closed_at > now() - make_interval(days => $1))
order by opened_at desc, incident_id desc
limit $2
