-- $1 endpoint, $2 now, $3 reason. The endpoint, unless it is disabled already.
update webhook_endpoint set disabled_at = $2, disabled_reason = $3
where endpoint_id = $1 and disabled_at is null
returning customer_id, url, last_error
