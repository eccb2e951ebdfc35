-- $1 connection, $2 and $3 the time and id before which to go on, $4 limit. The newest first.
select dead_letter_id, meter, window_start, reason, detail, occurrences, first_at, last_at,
       case when kind = 'reading' then payload end as payload
from dead_letter
where connection_id = $1 and last_at <= $2 and (last_at, dead_letter_id) < ($2, $3)
order by last_at desc, dead_letter_id desc
limit $4
