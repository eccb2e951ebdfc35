-- $1 connection ids.
select connection_id, customer_id, system, hosting, tier, state, prior_state, settings, sync, meters, managed_by, credential_type, declared_digest,
       configuration, generation, candidate, account, price, host
from connection where connection_id = any($1)
