-- $1 connection, $2 generation. Times as seconds from now on the database's clock. `lapsed`: the fence of a lease that has run out.
select t.sealed, t.serial, t.refused,
       extract(epoch from t.refresh_at - clock_timestamp())::float8 as refresh_in,
       extract(epoch from t.expires_at - clock_timestamp())::float8 as expires_in,
       case when t.lease_until <= clock_timestamp() then t.fence end as lapsed
from token t
where t.connection_id = $1 and t.generation = $2
