-- $1 connection, $2 name, $3 watermark, $4 device watermark.
update stream set watermark = $3, device_watermark = $4
where (connection_id, name, phase) = ($1, $2, 'incremental')
