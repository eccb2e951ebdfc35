-- $1 customer, $2 a position that a reader has seen, $3 the epoch that he saw it in. The log has ended before it since: a restore. What it holds from there on
-- is not what any reader of that epoch has seen, so the epoch ends.
update record_log set epoch = (random() * 9007199254740991)::bigint where customer_id = $1 and position < $2 and epoch = $3
