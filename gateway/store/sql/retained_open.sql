-- $1 connections. Their open issues, but of those that are disconnected.
select c.customer_id, i.issue_id, i.connection_id, i.code, i.severity, i.since, i.title, i.instructions, i.action_url, i.request_id
from issue i
join connection c using (connection_id)
where i.connection_id = any($1) and i.solved_at is null and c.state <> 'disconnected'
