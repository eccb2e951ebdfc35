-- dead_letter_list
-- $1 connection or null for all, $2 kind or null for both, $3 limit. The newest first.
select dead_letter_id, kind, coalesce(customer_id, (select connection.customer_id from connection where connection.connection_id = dead_letter.connection_id)) as customer_id,
       connection_id, topic, meter, window_start, reason, detail, occurrences, first_at, last_at, octet_length(payload) as bytes
from dead_letter
where ($1::text is null or connection_id = $1) and ($2::text is null or kind = $2)
order by dead_letter_id desc
limit $3
