-- Every open issue of a connection that is not disconnected. Asked once a second.
select c.customer_id, i.issue_id, i.connection_id, i.code, i.severity, i.since, i.title, i.instructions, i.action_url, i.request_id
from issue i
join connection c using (connection_id)
where i.solved_at is null and c.state <> 'disconnected'
