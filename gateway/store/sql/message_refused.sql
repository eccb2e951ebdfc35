-- $1 id, $2 reason, $3 detail, $4 customer, $5 source. It was tried again and stays, with its new reason.
update dead_letter set reason = $2, detail = $3, customer_id = $4, source = $5 where dead_letter_id = $1
