-- From one unit to another: {"from", "to", "factor", "offset"}, the numbers as texts of fractions. Null: `scale` and `value_offset` say what is done.
alter table meter_mapping add column conversion jsonb;

-- Metrics of devices that a connection's patterns were compared with and match, whatever came of it: what is here is not looked at again. Kept by the scan and by
-- the walk of the history, in the transaction that looks at the first samples of a metric.
create table matched_metric (
    connection_id text not null references connection on delete cascade,
    device_id     text not null,
    metric        text not null,
    primary key (connection_id, device_id, metric)
);
