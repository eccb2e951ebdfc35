-- $1 customers, $2 nodes, $3 digests, $4 metrics as JSON, $5 as JSON: [customer, node, digests that a birth still names], of each node that is written.
with old as (
    delete from sparkplug_definitions
    using jsonb_array_elements($5::text::jsonb) as kept
    where sparkplug_definitions.customer_id = kept->>0 and sparkplug_definitions.node = kept->>1 and not kept->2 ? sparkplug_definitions.digest
)
insert into sparkplug_definitions (customer_id, node, digest, metrics)
select customer_id, node, digest, metrics::jsonb
from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as given (customer_id, node, digest, metrics)
order by customer_id, node, digest
on conflict (customer_id, node, digest) do nothing
