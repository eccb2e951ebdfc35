-- $1 limit. Where connections lead and which files they name, without what is disconnected.
select connection_id, customer_id, origin, settings from connection where state not in ('disconnecting', 'disconnected') order by connection_id limit $1
