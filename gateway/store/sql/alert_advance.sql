-- $1 connection, $2 watermark: everything up to it is judged.
update alert_stream set watermark = $2 where connection_id = $1
