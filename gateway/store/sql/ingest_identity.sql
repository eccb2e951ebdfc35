-- $1 instance, $2 a fresh seed. The seed of the instance: the first one that was ever given.
insert into ingest_identity as held (instance, seed) values ($1, $2)
on conflict (instance) do update set seed = held.seed
returning seed
