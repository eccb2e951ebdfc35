-- $1 connection ids, null for all.
select connection_id, customer_id, system, hosting, tier, state, prior_state, settings, sync, meters, alerts, managed_by, credential_type, declared_digest,
       configuration, generation, candidate, account, price, host, origin, meters_of, meters_digest, title, in_use
from connection where ($1::text[] is null or connection_id = any($1))
