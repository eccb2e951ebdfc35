-- $1 connection, $2 meters, $3 window starts: what the system took. They are withheld no more, and the windows after each, up to the
-- meter's next delivered one, were compared with something else: they are to be looked at again.
with made as materialized (
    select taken.meter, taken.window_start, coalesce(next.window_start, 'infinity') as until
    from unnest($2::text[], $3::timestamptz[]) as taken (meter, window_start)
    left join lateral (
        select d.window_start from delivery d
        where d.connection_id = $1 and d.meter = taken.meter and d.window_start > taken.window_start
        order by d.window_start
        limit 1
    ) next on true
), sent as (
    delete from withheld w using made
    where w.connection_id = $1 and w.meter = made.meter and w.window_start = made.window_start
)
update withheld w set again = true
from made
where w.connection_id = $1 and w.meter = made.meter and w.window_start > made.window_start and w.window_start < made.until
