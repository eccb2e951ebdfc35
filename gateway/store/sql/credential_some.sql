-- $1 connections, $2 the generation of each.
select c.connection_id, c.generation, c.type, c.sealed, c.created_at, c.expires_at, c.origin
from unnest($1::text[], $2::int[]) as wanted (connection_id, generation)
join credential c on c.connection_id = wanted.connection_id and c.generation = wanted.generation
