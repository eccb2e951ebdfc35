-- $1 the time until which a credential must last. Credentials in use that end before, the first to end first.
select c.connection_id, c.type, c.expires_at
from credential c
join connection n on n.connection_id = c.connection_id and n.generation = c.generation
where c.expires_at <= $1 and n.state not in ('disconnecting', 'disconnected')
order by c.expires_at, c.connection_id
limit 200
