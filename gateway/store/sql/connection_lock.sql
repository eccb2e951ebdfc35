-- $1 connection. The row as it is until the transaction ends: the first step of every transition.
select connection_id, customer_id, system, hosting, tier, state, prior_state, generation, candidate, price, configuration, settings_since, version, account, managed_by
from connection where connection_id = $1 for no key update
