-- $1 customers, $2 nodes, $3 bdSeq, $4 next sequence number (null: dead), $5 until, $6 since when something is missing, or null, $7 whether the birth is certain. In one order, as all writers lock them.
insert into sparkplug_node as held (customer_id, node, bd_seq, next_seq, until, gap_at, is_certain)
select * from unnest($1::text[], $2::text[], $3::bigint[], $4::smallint[], $5::bigint[], $6::bigint[], $7::boolean[])
order by 1, 2
on conflict (customer_id, node) do update
    set bd_seq = excluded.bd_seq, next_seq = excluded.next_seq, until = excluded.until, gap_at = excluded.gap_at, is_certain = excluded.is_certain, seen_at = now()
