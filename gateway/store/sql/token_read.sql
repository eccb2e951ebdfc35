-- $1 connection, $2 generation. Times as seconds from now on the database's clock.
select t.sealed, t.serial, t.refused,
       extract(epoch from t.refresh_at - clock_timestamp())::float8 as refresh_in,
       extract(epoch from t.expires_at - clock_timestamp())::float8 as expires_in
from token t
where t.connection_id = $1 and t.generation = $2
