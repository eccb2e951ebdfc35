-- $1 customer. Its connections, locked until the transaction ends, in one order.
select connection_id from connection where customer_id = $1 order by connection_id for update
