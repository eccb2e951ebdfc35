-- $1 connection or null, $2 customer or null, $3 system or null, $4 states or null, $5 ids after this one, $6 limit. Never a credential.
select connection_id, customer_id, system, hosting, tier, state, reason, since, version, settings, sync, meters, alerts, managed_by,
       credential_type, account, price, created_at, request_id
from connection
where ($1::text is null or connection_id = $1) and ($2::text is null or customer_id = $2) and ($3::text is null or system = $3)
  and ($4::text[] is null or state = any($4)) and connection_id > $5
order by connection_id
limit $6
