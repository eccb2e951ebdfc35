-- $1 the alert after which to go on, $2 limit. Alerts that are not cleared.
select alert.*, coalesce(connection.state = 'disconnected', true) as is_disconnected
from alert left join connection using (connection_id)
where alert.state <> 'cleared' and alert.alert_id > $1
order by alert.alert_id
limit $2
