-- $1 endpoint, $2 lane. The lane's first pending delivery.
select position from webhook_delivery where endpoint_id = $1 and lane = $2 and state = 'pending' order by position limit 1
