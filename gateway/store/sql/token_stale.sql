-- $1 newest key id, $2 connection and $3 generation to begin after, $4 how many. Records sealed under another key.
select t.connection_id, t.generation, t.sealed, n.customer_id
from token t
join connection n using (connection_id)
where (t.connection_id, t.generation) > ($2, $3) and t.key_id <> $1
order by t.connection_id, t.generation
limit $4
