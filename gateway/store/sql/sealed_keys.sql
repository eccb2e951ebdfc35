-- No parameters. Which keys seal what is stored, how much, and one connection of each.
select key_id, count(*) as records, min(connection_id) as connection_id
from (
    select key_id, connection_id from credential
    union all
    select key_id, connection_id from token where sealed is not null
    union all
    select encode(substr(sealed, 2, 4), 'hex'), 'webhook ' || endpoint_id
    from webhook_endpoint cross join unnest(array[secret, previous_secret]) as sealed
    where sealed is not null
) held
group by key_id
