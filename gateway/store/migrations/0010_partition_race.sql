-- Two transactions may make one day's partition at once: the lock lets the second see that it is there, but its catalogue may be an older one.
create or replace function ensure_partition(parent text, day date) returns void language plpgsql as $$
declare
    child text := format('%s_%s', parent, to_char(day, 'YYYYMMDD'));
begin
    if to_regclass(child) is not null then
        return;
    end if;
    perform pg_advisory_xact_lock(hashtext('fieldgate.partition.' || child));
    if to_regclass(child) is not null then
        return;
    end if;
    execute format('create table %I partition of %I for values from (%L) to (%L)',
                   child, parent, (day::timestamp at time zone 'UTC'), ((day + 1)::timestamp at time zone 'UTC'));
exception when duplicate_table then
    null;
end $$;
