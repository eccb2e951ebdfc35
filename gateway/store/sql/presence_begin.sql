-- $1 replica, $2 key of the lock that its session holds by now.
insert into replica (replica_id, life) values ($1, $2)
on conflict (replica_id) do update set life = excluded.life
