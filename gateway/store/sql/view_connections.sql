-- $1 connection or null, $2 customer or null, $3 system or null, $4 states or null, $5 ids after this one, $6 limit, $7 whether rules are wanted, or how many there are only. Never a credential.
-- A customer's are read by its index, all by the key: one branch of the two is executed.
select connection_id, customer_id, system, hosting, tier, state, case when state <> 'active' then reason end as reason, since, version, settings, sync, case when $7::bool then meters end as meters, case when $7 then alerts end as alerts,
       case when jsonb_typeof(meters) = 'array' then jsonb_array_length(meters) else 0 end as meter_rules, case when jsonb_typeof(alerts) = 'array' then jsonb_array_length(alerts) else 0 end as alert_rules, managed_by, credential_type, account, price, created_at, request_id, title, meters_of = configuration as meters_in_force
from (
    (select * from connection
     where $2::text is null and ($1::text is null or connection_id = $1) and ($3::text is null or system = $3)
       and ($4::text[] is null or state = any($4)) and connection_id > $5
     order by connection_id
     limit $6)
    union all
    (select * from connection
     where customer_id = $2 and ($1::text is null or connection_id = $1) and ($3::text is null or system = $3)
       and ($4::text[] is null or state = any($4)) and connection_id > $5
     order by connection_id
     limit $6)
) found
order by connection_id
limit $6
