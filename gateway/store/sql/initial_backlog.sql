-- $1 connection, $2 enough. How many windows of the initial phase can be delivered now, counted up to `enough`:
-- those of a meter that the system has put off do not keep the others back.
select count(*) from (
    select from due_window d
    where d.connection_id = $1 and d.phase = 'initial' and d.closes_at <= now()
      and not exists (select from meter_mapping m where m.connection_id = $1 and m.meter = d.meter and m.retry_at > now())
    limit $2
) waiting
