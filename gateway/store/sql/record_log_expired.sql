-- $1 customer. Up to which position of its log deleted records may have been removed. Asked after the records of a page: what was removed before them is noted.
select coalesce(max(expired_to), 0) from record_log where customer_id = $1
