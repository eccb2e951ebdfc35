-- $1 customers, $2 nodes. All that is known of them: one row a node.
select n.customer_id, n.node, n.bd_seq, n.next_seq, n.until, n.gap_at, n.is_certain,
       (select jsonb_agg(jsonb_build_array(d.device, d.births, (extract(epoch from d.offline_since) * 1000000)::bigint))
        from sparkplug_device d where d.customer_id = n.customer_id and d.node = n.node) as devices,
       (select jsonb_agg(jsonb_build_array(f.digest, f.metrics))
        from sparkplug_definitions f where f.customer_id = n.customer_id and f.node = n.node) as definitions
from unnest($1::text[], $2::text[]) as wanted (customer_id, node)
join sparkplug_node n using (customer_id, node)
