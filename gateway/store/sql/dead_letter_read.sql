-- dead_letter_read
-- $1 id.
select kind, meter, window_start, detail, connection_id, customer_id, topic, reason, payload, first_at, last_at, occurrences, is_retained from dead_letter where dead_letter_id = $1
