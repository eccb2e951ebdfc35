-- dead_letter_remove
-- $1 id, $2 occurrences that were replayed: one that was counted again meanwhile stays. True when it is gone.
delete from dead_letter where dead_letter_id = $1 and occurrences = $2 returning true
