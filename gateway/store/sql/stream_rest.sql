-- $1 how many streams. Of those that are due, the ones with nothing to do rest until they are due again: nothing came for their customer since they were
-- scanned, no window is due or in doubt, no meter is to be made, nothing failed. Also those whose connection may not call: whoever lets it call again wakes them.
-- A run would find the same, in some ten statements. Whether any other is due.
with due as materialized (
    select s.connection_id, s.name, s.phase, s.watermark, s.every, c.customer_id,
           c.state in ('pending', 'paused', 'reauthorization_required', 'disconnecting') or (c.state = 'blocked' and not s.trial) as is_halted,
           c.state = 'active' and s.phase = 'incremental' and s.state = 'idle' and s.attempts = 0 and s.put_off = 0 and s.last_error is null
           and s.meters_of = c.configuration and s.every is not null as may_rest
    from stream s join connection c using (connection_id)
    where s.next_run_at <= now() and s.state <> 'done' and s.lease_until is null
    order by s.next_run_at
    limit $1
    for update of s skip locked
), resting as materialized (
    select d.* from due d
    where d.is_halted
       or (d.may_rest
           and not exists (select from due_window w where w.connection_id = d.connection_id)
           and not exists (select from push_intent i where i.connection_id = d.connection_id)
           and not exists (select from delivery_doubt u where u.connection_id = d.connection_id)
           and not exists (select from meter_made m where m.connection_id = d.connection_id and m.due_at <= now())
           and not exists (select from connection_trouble t where t.connection_id = d.connection_id and t.part = 'run')
           and coalesce((select l.position from customer_log l where l.customer_id = d.customer_id), 0) <= d.watermark)
), rested as (
    update stream s
    set next_run_at = now() + case when r.is_halted then interval '1 minute' else r.every end,
        last_success_at = case when r.is_halted then s.last_success_at else now() end
    from resting r
    where (s.connection_id, s.name, s.phase) = (r.connection_id, r.name, r.phase)
    returning true
)
select (select count(*) from due) > (select count(*) from rested)
       or exists (select from stream where next_run_at <= now() and state <> 'done' and lease_until <= now())
