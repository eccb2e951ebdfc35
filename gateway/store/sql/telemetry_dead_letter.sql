-- $1 digests, $2 topics, $3 reasons, $4 details, $5 payloads, $6 customers, $7 sources, $8 whether the broker had them retained. Equal messages are counted. In one order, as all writers lock them.
-- Nothing is kept of a customer that has moved to another gateway: what it sent came there, too.
insert into dead_letter as held (kind, digest, topic, reason, detail, payload, customer_id, source, is_retained, occurrences)
select distinct on (digest) 'message', digest, topic, reason, detail, payload, customer_id, source, bool_and(is_retained) over same, count(*) over same
from unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::text[], $8::boolean[])
    as dead (digest, topic, reason, detail, payload, customer_id, source, is_retained)
where not exists (select from customer_log where customer_log.customer_id = dead.customer_id and customer_log.is_frozen)
window same as (partition by digest)
order by digest
on conflict (kind, digest) do update
    set occurrences = held.occurrences + excluded.occurrences, last_at = now(), reason = excluded.reason, detail = excluded.detail,
        customer_id = excluded.customer_id, source = excluded.source, is_retained = held.is_retained and excluded.is_retained
