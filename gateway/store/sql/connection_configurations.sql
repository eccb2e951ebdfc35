-- $1 connection ids, null for all. Those that are to be served, how often each was configured, whether it may call its system, and of which
-- configuration its meters are.
select connection_id, configuration, state in ('active', 'degraded', 'blocked') as is_served, meters_of
from connection where state <> 'disconnected' and ($1::text[] is null or connection_id = any($1))
