-- $1 connection, $2 the states it may come from, $3 the state it goes to (one for each of $2), $4 trigger, $5 reason.
-- Compare and set with its audit row; no row when the connection is in none of the states.
with before as (
    select connection_id, state from connection where connection_id = $1 and state = any($2) for update
), moved as (
    update connection c
    set state = ($3::text[])[array_position($2, before.state)], reason = $5, since = now(), version = c.version + 1
    from before
    where c.connection_id = before.connection_id
    returning c.connection_id, before.state as from_state, c.state as to_state, c.customer_id, c.system
), audited as (
    insert into connection_audit (connection_id, from_state, to_state, trigger, reason)
    select connection_id, from_state, to_state, $4, $5 from moved
)
select from_state, to_state from moved
