-- Up to when samples of a customer were dropped: of a window that begins before, a part is gone, and what the rest makes is no value of it.
create table telemetry_dropped (
    customer_id text primary key,
    until       timestamptz not null
);
