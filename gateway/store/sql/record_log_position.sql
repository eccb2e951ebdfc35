-- $1 customer. The position of its log, and the log's epoch.
select coalesce(max(position), 0) as position, coalesce(max(epoch), 0) as epoch from record_log where customer_id = $1
