-- $1 connection, $2 generation, $3 the record as it was read, $4 the same under another key. Nothing where somebody was faster.
update token set sealed = $4 where connection_id = $1 and generation = $2 and sealed = $3
