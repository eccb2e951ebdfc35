-- $1 partitions, $2 partition, $3 up to when all that came for it is known, $4 seconds: a longer step is a break, in which nothing was read. What is new begins
-- behind whatever counts already, so that no device is listened to for longer than it was when customers move to another partition.
insert into heard as h (partitions, partition, until_at, unheard, broke_at, resumed_at)
select $1, $2, $3, coalesce(max(o.unheard + greatest(extract(epoch from $3 - o.until_at), 0)), 0), $3, $3 from heard o
on conflict (partitions, partition) do update
    set until_at = greatest(h.until_at, $3),
        unheard = case when extract(epoch from $3 - h.until_at) <= $4 then h.unheard
                       else greatest(h.unheard + extract(epoch from $3 - h.until_at), (select max(o.unheard) from heard o)) end,
        broke_at = case when extract(epoch from $3 - h.until_at) <= $4 or h.until_at = h.resumed_at then h.broke_at else h.until_at end,
        resumed_at = case when extract(epoch from $3 - h.until_at) <= $4 then h.resumed_at else $3 end
returning until_at, unheard, broke_at, resumed_at
