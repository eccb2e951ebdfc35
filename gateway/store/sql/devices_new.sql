-- $1 customer, $2 past this position, $3 up to this one.
select device_id from device where customer_id = $1 and revision > $2 and revision <= $3
