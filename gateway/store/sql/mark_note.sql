-- $1 customers, $2 topics, $3 how the name of a mark begins. The first time counts: one that comes again was not acknowledged.
-- Only those of the move that is under way, or to which a cancelled export returns: nobody else knows its number before it is published. Bounded for each move,
-- for whoever reads it then may publish there, too; what an earlier move left takes no room of this one.
insert into customer_mark (customer_id, topic, position)
select m.customer_id, m.topic, coalesce(l.position, 0)
from unnest($1::text[], $2::text[]) as m (customer_id, topic)
join customer_move s on s.customer_id = m.customer_id and s.state in ('expected', 'leaving')
join lateral (values ($3 || s.move_id), ($3 || s.stood_move)) as own (name) on strpos(m.topic, own.name) > 0
left join customer_log l on l.customer_id = m.customer_id
where (select count(*) from customer_mark held where held.customer_id = m.customer_id and strpos(held.topic, own.name) > 0) < 100
on conflict do nothing
