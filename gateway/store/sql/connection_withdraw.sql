-- $1 connection. The candidate is offered no more.
update connection set candidate = null, configuration = configuration + 1 where connection_id = $1 and candidate is not null
