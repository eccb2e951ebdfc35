-- Seconds until some connection is to be looked at, as probe_claim finds it; null where none is. Each part is a step in an index.
select extract(epoch from nullif(least(
    (select probe_at from connection
     where state in ('verifying', 'disconnecting') or (candidate is not null and state in ('pending', 'reauthorization_required'))
     order by probe_at limit 1),
    (select probe_at from connection where state in ('active', 'degraded', 'blocked') order by probe_at limit 1)
), 'infinity') - now())::float8
