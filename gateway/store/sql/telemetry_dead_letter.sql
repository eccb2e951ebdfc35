-- $1 digests, $2 topics, $3 reasons, $4 details, $5 payloads, $6 customers. Equal messages are counted. In one order, as all writers lock them.
insert into dead_letter as held (kind, digest, topic, reason, detail, payload, customer_id, occurrences)
select distinct on (digest) 'message', digest, topic, reason, detail, payload, customer_id, count(*) over (partition by digest)
from unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[]) as dead (digest, topic, reason, detail, payload, customer_id)
order by digest
on conflict (kind, digest) do update
    set occurrences = held.occurrences + excluded.occurrences, last_at = now(), reason = excluded.reason, detail = excluded.detail
