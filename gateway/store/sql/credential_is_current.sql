-- $1 connection, $2 generation. Whether the generation is still in use or being verified.
select exists (
    select from credential c join connection n using (connection_id)
    where c.connection_id = $1 and c.generation = $2 and n.generation <= c.generation
)
