-- $1 limit. Alerts of which the broker has another version, or none, the first that changed first. Asked once a second: empty where nothing has changed.
select a.*, coalesce(c.state = 'disconnected', true) as is_disconnected
from alert a left join connection c using (connection_id)
where a.told is distinct from a.version
order by a.changed_at
limit $1
