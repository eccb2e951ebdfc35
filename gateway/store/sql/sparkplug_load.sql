-- $1 customers, $2 nodes. All that is known of them: one row a node.
select sparkplug_node.customer_id, sparkplug_node.node, sparkplug_node.bd_seq, sparkplug_node.next_seq, sparkplug_node.until, sparkplug_node.gap_at, sparkplug_node.is_certain,
       (select jsonb_agg(jsonb_build_array(sparkplug_device.device, sparkplug_device.births, (extract(epoch from sparkplug_device.offline_since) * 1000000)::bigint))
        from sparkplug_device where sparkplug_device.customer_id = sparkplug_node.customer_id and sparkplug_device.node = sparkplug_node.node) as devices,
       (select jsonb_agg(jsonb_build_array(sparkplug_definitions.digest, sparkplug_definitions.metrics))
        from sparkplug_definitions where sparkplug_definitions.customer_id = sparkplug_node.customer_id and sparkplug_definitions.node = sparkplug_node.node) as definitions
from unnest($1::text[], $2::text[]) as wanted (customer_id, node)
join sparkplug_node using (customer_id, node)
