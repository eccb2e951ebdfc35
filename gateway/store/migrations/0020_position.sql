-- A log position of its own takes the place of transaction ids: it belongs to the data, so no transaction elsewhere holds it back and a dump takes it
-- along. Nothing of telemetry's size is rewritten here; a replica of the version before writes nothing from now on and asks again until it is replaced.

-- Where a customer's log ends. Whoever writes samples or devices of the customer locks the row, gives them position + 1 and moves it, in one
-- transaction: whatever is at `position` or before it is committed, in every snapshot that sees the row. Room in the page, for it changes with each commit.
create table customer_log (
    customer_id text primary key,
    position    bigint not null
) with (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);

-- The days of telemetry that hold something new: none of the customer's samples of that day has a position past `reaches`, which is rounded up so that
-- it changes once in a thousand commits.
create table customer_day (
    customer_id text not null,
    day         date not null,
    reaches     bigint not null,
    primary key (customer_id, day)
);
create index customer_day_day on customer_day (day);

-- Where events that readers have seen end; one row.
create table event_log (
    event_log_id smallint primary key default 1 check (event_log_id = 1),
    position     bigint not null
);

-- Numbers go on from the transaction ids, so watermarks keep their meaning without a look at what they passed.
lock table telemetry, device, stream, event in access exclusive mode;
insert into customer_log (customer_id, position)
select customer_id, greatest(pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
                             (select max(revision)::text::bigint from device),
                             (select max(greatest(watermark, device_watermark))::text::bigint from stream),
                             (select max(revision)::text::bigint from event))
from customer;
insert into event_log (position) select greatest(0, pg_snapshot_xmax(pg_current_snapshot())::text::bigint, (select max(revision)::text::bigint from event));

-- Telemetry: what every stream has scanned gets 0, which no row is changed for; only what somebody has yet to scan is.
alter table telemetry rename column revision to changed_by;
alter table telemetry add column revision bigint not null default 0;
with changed as (
    update telemetry t set revision = t.changed_by::text::bigint
    from (
        select c.customer_id, min(s.watermark) as watermark
        from stream s join connection c using (connection_id)
        where s.phase = 'incremental'
        group by c.customer_id
    ) scanned
    where t.customer_id = scanned.customer_id and t.changed_by >= scanned.watermark
    returning t.customer_id, t.ts, t.revision
), days as (
    insert into customer_day (customer_id, day, reaches)
    select customer_id, (ts at time zone 'UTC')::date, max(revision) from changed group by 1, 2
)
update customer_log l set position = greatest(l.position, c.last)
from (select customer_id, max(revision) as last from changed group by customer_id) c
where l.customer_id = c.customer_id;
alter table telemetry alter column revision drop default, drop column changed_by;  -- its index goes with it
create index telemetry_revision on only telemetry (customer_id, revision);

-- A day that was made before has no index of positions, and needs one only where it holds something new: whoever writes to it makes it.
create or replace function ensure_partition(parent text, day date) returns void language plpgsql as $$
declare
    child text := format('%s_%s', parent, to_char(day, 'YYYYMMDD'));
    index text := child || '_customer_id_revision_idx';
begin
    if to_regclass(child) is not null and (parent <> 'telemetry' or to_regclass(index) is not null) then
        return;
    end if;
    perform pg_advisory_xact_lock(hashtext('fieldgate.partition.' || child));
    if to_regclass(child) is null then
        execute format('create table %I (like %I including all)', child, parent);
        execute format('alter table %I attach partition %I for values from (%L) to (%L)',
                       parent, child, (day::timestamp at time zone 'UTC'), ((day + 1)::timestamp at time zone 'UTC'));
    elsif parent = 'telemetry' and to_regclass(index) is null then
        execute format('create index %I on %I (customer_id, revision)', index, child);
    end if;
exception when duplicate_table then
    null;
end $$;
select ensure_partition('telemetry', day) from (select distinct day from customer_day) days;

-- The samples of a customer past one position up to another, from the days that have any. Each day is asked by its own name: a plan over all
-- of them costs more than what it finds.
create function telemetry_between(customer text, low bigint, high bigint)
returns table (device_id text, ts timestamptz, metrics jsonb, revision bigint) language plpgsql stable rows 1000 as $$
declare
    child text;
begin
    for child in
        select 'telemetry_' || to_char(d.day, 'YYYYMMDD') from customer_day d
        where d.customer_id = customer and d.reaches > low
    loop
        begin
            return query execute format(
                'select t.device_id, t.ts, t.metrics, t.revision from %I t where t.customer_id = $1 and t.revision > $2 and t.revision <= $3', child)
                using customer, low, high;
        exception when undefined_table then
            null;  -- retention has just dropped the day
        end;
    end loop;
end $$;

-- The last position of a slice of the log past `low`: about so many samples, whole positions, and one at least; `high` where there are not as many.
create function telemetry_slice(customer text, low bigint, high bigint, samples int) returns bigint language plpgsql stable as $$
declare
    days text;
    first bigint;
    past bigint;
begin
    select string_agg(format(
        '(select t.revision from telemetry_%s t where t.customer_id = $1 and t.revision > $2 and t.revision <= $3 order by t.revision limit $4 + 1)',
        to_char(d.day, 'YYYYMMDD')), ' union all ')
    into days
    from customer_day d
    where d.customer_id = customer and d.reaches > low and to_regclass('telemetry_' || to_char(d.day, 'YYYYMMDD')) is not null;
    if days is null or low >= high then
        return high;
    end if;
    execute format('select min(revision), case when count(*) > $4 then max(revision) end from (select revision from (%s) found order by revision limit $4 + 1) slice', days)
    into first, past using customer, low, high, samples;
    return case when past is null then high else greatest(past - 1, first) end;
exception when undefined_table then
    return low;  -- retention has just dropped a day: asked again
end $$;

-- Devices of before are old, but for those that a stream has not seen.
alter table device
    alter column revision drop default,
    alter column revision type bigint using revision::text::bigint,
    alter column revision set default 0;

-- A stream has scanned everything up to its watermark, and not, as before, everything below it.
alter table stream
    alter column watermark drop default,
    alter column watermark type bigint using greatest(0, watermark::text::bigint - 1),
    alter column watermark set default 0,
    alter column device_watermark drop default,
    alter column device_watermark type bigint using greatest(0, device_watermark::text::bigint - 1),
    alter column device_watermark set default 0;

-- Marks of windows and doubts only have to differ. What is there keeps one that no new mark has.
alter table due_window add column token bigint not null default 0;
alter table due_window drop column mark;
alter table due_window rename column token to mark;
alter table due_window alter column mark set default (1 + random() * 9007199254740990)::bigint;
alter table delivery_doubt add column token bigint not null default 0;
alter table delivery_doubt drop column mark;
alter table delivery_doubt rename column token to mark;
alter table delivery_doubt alter column mark set default (1 + random() * 9007199254740990)::bigint;

-- Events: null until a reader gives it its place after everything that readers saw before.
alter table event
    alter column revision drop default,
    alter column revision drop not null,
    alter column revision type bigint using revision::text::bigint;
create index event_unseen on event (position) where revision is null;
