-- $1 customer. The position of its log, which stays so until the transaction ends: nobody else changes a record of the customer meanwhile.
-- Every change gets a time that is not before that of the one before it, whatever the clock does.
insert into record_log as l (customer_id, at) values ($1, clock_timestamp())
on conflict (customer_id) do update set at = greatest(l.at, clock_timestamp())
returning position, at
