-- $1 limit. The newest first.
select connection_id from connection order by created_at desc limit $1
