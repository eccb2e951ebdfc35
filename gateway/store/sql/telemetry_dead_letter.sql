-- $1 digests, $2 topics, $3 reasons, $4 details, $5 payloads. Equal messages are counted.
insert into dead_letter as held (kind, digest, topic, reason, detail, payload, occurrences)
select distinct on (digest) 'message', digest, topic, reason, detail, payload, count(*) over (partition by digest)
from unnest($1::bytea[], $2::text[], $3::text[], $4::text[], $5::bytea[]) as dead (digest, topic, reason, detail, payload)
on conflict (kind, digest) do update
    set occurrences = held.occurrences + excluded.occurrences, last_at = now(), reason = excluded.reason, detail = excluded.detail
