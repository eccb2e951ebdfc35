-- No parameters. Who follows this server, and replication slots with the log that they hold back. Lag is null where nothing is to be replayed.
select 'standby' as what, application_name as name, coalesce(state, '') as detail, coalesce(sync_state, '') in ('sync', 'quorum') as holds,
       coalesce(extract(epoch from replay_lag), 0)::float8 as seconds, 0::bigint as bytes
from pg_stat_replication
union all
select 'slot', slot_name::text, coalesce(wal_status, ''), active, 0,
       case when pg_is_in_recovery() then 0 else coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint end
from pg_replication_slots
order by 1, 2
limit 100
