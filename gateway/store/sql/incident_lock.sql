-- Open incidents, locked in one order.
select * from incident where closed_at is null order by scope, key for update
