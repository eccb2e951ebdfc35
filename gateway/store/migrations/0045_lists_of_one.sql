-- The ledger of one customer, and the alerts of one connection, are read by an index of their own: by that of all lines those of everybody would be read on
-- the way.
create index credit_transfer_customer on credit_transfer (customer_id, transfer_id);
create index alert_connection on alert (connection_id, created_at, alert_id);

-- When the system was asked what time it is, by our clock, for what `high` (or `origin`, where there is none) was made from, and for `walk_high`. A clock that is set
-- back is told by its own past; how far had been read by its present time, by ours. Of what was read before this, a time that is early enough.
alter table inbound_stream add column asked_at timestamptz;
alter table inbound_stream add column walk_asked_at timestamptz;
update inbound_stream set asked_at = coalesce(last_success_at, began_at, now()) - interval '1 hour' where origin is not null;
update inbound_stream set walk_asked_at = coalesce(walk_at, now()) - interval '1 hour' where walk_cursor is not null;
