-- $1 how many connections are said one by one, $2 how many customers, $3 states that are not well, the worst first, $4 a lag in seconds that is not
-- well either. What metrics say, of one instant: connections (where there are more than $1 only those that are not well, the worst first), systems by
-- state, customers (the worst first), and how many connections are left out. Asked when somebody scrapes, at most once in a few seconds.
with facts as materialized (
    select c.connection_id, c.customer_id, c.system, c.state, counted.pending,
           coalesce(extract(epoch from now() - behind.oldest)::float8, 0) as lag_seconds,
           c.state = any($3::text[]) or coalesce(extract(epoch from now() - behind.oldest)::float8, 0) > $4 as is_unwell
    from connection c
    cross join lateral (
        -- by index for each, so that no plan depends on what was known of the tables when it was made
        select coalesce(sum(number), 0)::bigint as pending
        from (
            select k.number from kept_count k where k.connection_id = c.connection_id and k.kind = 'window'
            union all
            select h.change from count_change h where h.connection_id = c.connection_id and h.kind = 'window'
        ) each
    ) counted
    left join lateral (
        -- each phase by itself, as the index has them
        select min((select d.closes_at from due_window d
                    where d.connection_id = c.connection_id and d.phase = phases.phase and d.closes_at <= now()
                    order by d.closes_at limit 1)) as oldest
        from (values ('initial'), ('incremental')) as phases (phase)
        where counted.pending > 0
    ) behind on true
    where c.state <> 'disconnected'
), totals as materialized (
    select count(*) as connections, count(*) filter (where is_unwell) as unwell from facts
), shown as materialized (
    select * from facts
    where is_unwell or (select connections from totals) <= $1
    order by is_unwell desc, array_position($3::text[], state), lag_seconds desc, connection_id
    limit $1
)
select 'connection' as what, s.connection_id, s.customer_id, s.system, s.state, 1::bigint as number, s.pending, s.lag_seconds, s.is_unwell,
       (select max(f.last_success_at) from stream f where f.connection_id = s.connection_id) as last_success_at
from shown s
union all
select 'system', null, null, system, state, count(*), sum(pending)::bigint, max(lag_seconds), null, null from facts group by system, state
union all
(select 'customer', null, customer_id, null, null, count(*), sum(pending)::bigint, max(lag_seconds), is_unwell, null
 from facts
 where $2 > 0 and customer_id in (
     select customer_id from facts group by customer_id order by count(*) filter (where is_unwell) desc, max(lag_seconds) desc, customer_id limit $2
 )
 group by customer_id, is_unwell)
union all
select 'left out', null, null, null, null,
       (select connections - unwell from totals) - count(*) filter (where not is_unwell), 0, 0, false, null from shown
union all
select 'left out', null, null, null, null, (select unwell from totals) - count(*) filter (where is_unwell), 0, 0, true, null from shown
