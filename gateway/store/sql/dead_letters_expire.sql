-- $1 the moment before which they are dropped. One that is counted again, or replayed, just now is not waited for.
delete from dead_letter
where dead_letter_id in (select dead_letter_id from dead_letter where last_at < $1 for update skip locked)
