-- $1 id. True when it was there.
delete from dead_letter where kind = 'message' and dead_letter_id = $1 returning true
