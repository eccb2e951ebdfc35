-- No parameters. Which keys seal what is stored, how much, and one connection of each.
select key_id, count(*) as records, min(connection_id) as connection_id
from (
    select key_id, connection_id from credential
    union all
    select key_id, connection_id from token where sealed is not null
) held
group by key_id
