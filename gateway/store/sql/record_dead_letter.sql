-- $1 customer, $2 connection, $3 digests, $4 what, $5 reason, $6 details, one array a column but for the first two and the reason. What was not kept whole of a record.
insert into dead_letter as held (kind, digest, customer_id, connection_id, meter, reason, detail)
select 'record', digest, $1, $2, what, $5, detail from unnest($3::bytea[], $4::text[], $6::text[]) as dead (digest, what, detail)
on conflict (kind, digest) do update set occurrences = held.occurrences + 1, last_at = now(), detail = excluded.detail
