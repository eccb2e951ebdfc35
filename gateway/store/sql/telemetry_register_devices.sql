-- $1 customers, $2 devices.
insert into device (customer_id, device_id) select * from unnest($1::text[], $2::text[]) on conflict do nothing
