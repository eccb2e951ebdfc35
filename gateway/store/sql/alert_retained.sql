-- $1 a time, null: every alert that is not over. What changed since then, what is over too, for what the broker retains.
select a.*, c.state = 'disconnected' as is_disconnected
from alert a join connection c using (connection_id)
where case when $1::timestamptz is null then a.state <> 'cleared' else a.changed_at >= $1 end
