-- Which status documents there are, and how often each has changed; those of disconnected connections until their last one was published. Asked once a second.
select c.connection_id, c.version
from connection c
left join published_status p using (connection_id)
where c.state <> 'disconnected' or p.ended_at is null
