-- $1 connection, $2 fence. The first step of a transaction: until it ends the rules stay as they are.
select watermark, rules_of from alert_stream where (connection_id, fence) = ($1, $2) for key share
