-- $1 limit. Alerts of which the broker has another version, or none, the first that changed first. Asked once a second: empty where nothing has changed.
select alert.*, coalesce(connection.state = 'disconnected', true) as is_disconnected
from alert left join connection using (connection_id)
where alert.told is distinct from alert.version
order by alert.changed_at
limit $1
