-- $1 customer, $2 from revision, $3 until revision.
select device_id from device where customer_id = $1 and revision >= $2::text::xid8 and revision < $3::text::xid8
