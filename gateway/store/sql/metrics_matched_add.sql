-- $1 connection, $2 devices, $3 metrics. Compared with the connection's patterns, whatever came of it.
insert into matched_metric (connection_id, device_id, metric)
select $1, * from unnest($2::text[], $3::text[])
on conflict do nothing
