-- $1 the alert after which to go on, $2 limit. Alerts that are not cleared.
select a.*, coalesce(c.state = 'disconnected', true) as is_disconnected
from alert a left join connection c using (connection_id)
where a.state <> 'cleared' and a.alert_id > $1
order by a.alert_id
limit $2
