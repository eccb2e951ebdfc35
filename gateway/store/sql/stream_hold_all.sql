-- $1 connection. For windows that are written beside its streams: nobody takes the streams whole until the transaction ends. In one order.
select from stream where connection_id = $1 order by name, phase for key share
