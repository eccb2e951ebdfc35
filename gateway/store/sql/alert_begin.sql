-- $1 connection, $2 customer, $3 watermark, $4 configuration. A stream that exists goes on where it is.
insert into alert_stream (connection_id, customer_id, watermark, rules_of) values ($1, $2, $3, $4)
on conflict (connection_id) do update set rules_of = excluded.rules_of, next_run_at = now()
