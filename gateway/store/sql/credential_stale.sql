-- $1 newest key id, $2 connection and $3 generation to begin after, $4 how many. Records sealed under another key.
select c.connection_id, c.generation, c.sealed, n.customer_id
from credential c
join connection n using (connection_id)
where (c.connection_id, c.generation) > ($2, $3) and c.key_id <> $1
order by c.connection_id, c.generation
limit $4
