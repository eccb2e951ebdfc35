-- $1 endpoint, $2 event id or null for all, $3 limit. What became of deliveries to it, the newest event first.
select e.event_id, e.type, e.at, e.connection_id, d.state, d.attempt, d.next_at, d.delivered_at, d.error, d.replay
from webhook_delivery d
join event e on e.position = d.position
where d.endpoint_id = $1 and ($2::uuid is null or d.position = (select position from event where event_id = $2))
order by d.position desc
limit $3
