-- $1 connection. Until the transaction ends its meters stay as they are: a change of them locks the streams' rows whole.
select from stream where connection_id = $1 for key share
