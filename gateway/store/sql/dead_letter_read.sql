-- dead_letter_read
-- $1 id.
select kind, connection_id, topic, reason, payload, first_at, occurrences from dead_letter where dead_letter_id = $1
