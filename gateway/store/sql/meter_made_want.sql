-- $1 connection, $2 meters that the system has to make before their first reading, $3 whether these are all of the connection's.
-- One that was made stays so; one that was refused is asked for again, for something has changed. Until it is made nothing is due of it.
with gone as (
    delete from meter_made where connection_id = $1 and $3 and state <> 'made' and meter <> all($2::text[]) returning meter
), freed as (
    update meter_mapping m set retry_at = null from gone where m.connection_id = $1 and m.meter = gone.meter and m.meter <> all($2::text[])
), wanted as (
    insert into meter_made as w (connection_id, meter) select $1, unnest($2::text[])
    on conflict (connection_id, meter) do update set due_at = now() where w.state = 'refused'
    returning meter
)
update meter_mapping m set retry_at = 'infinity'
where m.connection_id = $1 and m.meter = any($2::text[])
  and (exists (select from wanted where wanted.meter = m.meter)
       or exists (select from meter_made w where w.connection_id = $1 and w.meter = m.meter and w.state <> 'made'))
