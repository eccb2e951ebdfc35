-- $1 customer or null, $2 a text in small letters that is looked for ('': anything), $3 states, $4 what it is sorted by: 'name', 'since', 'readings', 'lag', 'pending',
-- 'dead_letters'; $5 whether the greatest comes first, $6, $7 and $8 number, word and connection after which to go on (the first page: a number that comes before any), $9 since when
-- readings count, $10 limit. What another order needs is not read. Lags are sorted by the oldest window itself: a place stays the same while time goes on.
with wanted as (
    select connection.connection_id, connection.customer_id, connection.since, case when $4::text = 'name' then lower(coalesce(connection.title,
           connection.connection_id)) else '' end as word
    from connection
    where connection.state = any($3::text[]) and ($1::text is null or connection.customer_id = $1)
      and position($2 in lower(connection.connection_id || ' ' || connection.customer_id || ' ' || connection.system || ' ' || coalesce(connection.title, ''))) > 0
), counted as (
    select connection_id, sum(number)::float8 as number
    from (
        select connection_id, number from kept_count
        where $4 in ('pending', 'dead_letters', 'lag') and kind = case $4 when 'dead_letters' then 'dead_letter' else 'window' end
        union all
        select connection_id, change from count_change
        where $4 in ('pending', 'dead_letters', 'lag') and kind = case $4 when 'dead_letters' then 'dead_letter' else 'window' end
        union all
        select connection_id, delivered + modified from connection_hour where $4 = 'readings' and hour >= $9
    ) each_of
    group by connection_id
), placed as (
    select wanted.connection_id, wanted.customer_id, wanted.word,
           (case $4 when 'name' then 0 when 'since' then extract(epoch from wanted.since)
                    when 'lag' then coalesce(-extract(epoch from late.oldest), -1e12)
                    else coalesce(counted.number, 0) end)::float8 as number
    from wanted
    left join counted using (connection_id)
    left join lateral (
        select min(first.closes_at) as oldest
        from (values ('initial'), ('incremental')) phases (phase)
        cross join lateral (
            select due_window.closes_at from due_window
            where due_window.connection_id = wanted.connection_id and due_window.phase = phases.phase and due_window.closes_at <= now()
            order by due_window.closes_at limit 1
        ) first
    ) late on $4 = 'lag' and counted.number > 0
)
select connection_id, customer_id, number, word
from placed
where case when $5::bool then (number, word, connection_id) < ($6::float8, $7::text, $8::text) else (number, word, connection_id) > ($6, $7, $8) end
order by case when $5 then number end desc, case when $5 then word end desc, case when $5 then connection_id end desc, number, word, connection_id
limit $10
