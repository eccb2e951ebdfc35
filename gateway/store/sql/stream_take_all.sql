-- $1 connection. Its streams whole, in one order, before its windows: no run writes until the transaction ends.
select from stream where connection_id = $1 order by name, phase for update
