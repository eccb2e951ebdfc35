-- Counts are kept, not counted; the oldest window is found by an index; what changed of the retained documents is queued.

-- How many due windows and dead letters there are: number here, and what has changed since in count_change (ADR 29). Both are
-- read in one statement, so the sum is exact. No reference to the connection: a count may outlive what it counts for a moment.
create table kept_count (
    kind          text not null check (kind in ('window', 'dead_letter')),
    connection_id text not null,                     -- '': of dead letters that are no connection's
    part          text not null,                     -- of windows the phase, of dead letters the reason
    number        bigint not null,
    primary key (connection_id, kind, part)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
create index kept_count_dead_letters on kept_count (part) where kind = 'dead_letter';

-- Appended to by every statement that adds or removes, folded into kept_count every few seconds. Nobody waits for anybody here.
create table count_change (
    kind          text not null,
    connection_id text not null,
    part          text not null,
    change        bigint not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
create index count_change_connection on count_change (connection_id);

-- Once a statement, whichever it is and whoever runs it: also an older daemon beside us, and what a foreign key removes.
create function windows_added() returns trigger language plpgsql as $$
begin
    insert into count_change (kind, connection_id, part, change)
    select 'window', connection_id, phase, count(*) from added group by connection_id, phase;
    return null;
end $$;
create function windows_removed() returns trigger language plpgsql as $$
begin
    insert into count_change (kind, connection_id, part, change)
    select 'window', connection_id, phase, -count(*) from removed group by connection_id, phase;
    return null;
end $$;
-- A row at a time, for only the end of an initial sync moves windows: a trigger a statement would see every mark that is renewed.
create function window_moved() returns trigger language plpgsql as $$
begin
    insert into count_change (kind, connection_id, part, change)
    values ('window', old.connection_id, old.phase, -1), ('window', new.connection_id, new.phase, 1);
    return null;
end $$;
create trigger windows_added after insert on due_window referencing new table as added for each statement execute function windows_added();
create trigger windows_removed after delete on due_window referencing old table as removed for each statement execute function windows_removed();
create trigger window_moved after update of phase, connection_id on due_window for each row
    when ((old.connection_id, old.phase) is distinct from (new.connection_id, new.phase)) execute function window_moved();

create function letters_added() returns trigger language plpgsql as $$
begin
    insert into count_change (kind, connection_id, part, change)
    select 'dead_letter', coalesce(connection_id, ''), reason, count(*) from added group by coalesce(connection_id, ''), reason;
    return null;
end $$;
create function letters_removed() returns trigger language plpgsql as $$
begin
    insert into count_change (kind, connection_id, part, change)
    select 'dead_letter', coalesce(connection_id, ''), reason, -count(*) from removed group by coalesce(connection_id, ''), reason;
    return null;
end $$;
-- One that is counted again may be so for another reason.
create function letter_moved() returns trigger language plpgsql as $$
begin
    insert into count_change (kind, connection_id, part, change)
    values ('dead_letter', coalesce(old.connection_id, ''), old.reason, -1), ('dead_letter', coalesce(new.connection_id, ''), new.reason, 1);
    return null;
end $$;
create trigger letters_added after insert on dead_letter referencing new table as added for each statement execute function letters_added();
create trigger letters_removed after delete on dead_letter referencing old table as removed for each statement execute function letters_removed();
create trigger letter_moved after update of reason, connection_id on dead_letter for each row
    when ((old.connection_id, old.reason) is distinct from (new.connection_id, new.reason)) execute function letter_moved();

insert into kept_count (kind, connection_id, part, number)
select 'window', connection_id, phase, count(*) from due_window group by connection_id, phase
union all
select 'dead_letter', coalesce(connection_id, ''), reason, count(*) from dead_letter group by coalesce(connection_id, ''), reason;

-- The oldest window that is closed: the lag of a stream.
create index due_window_closes on due_window (connection_id, phase, closes_at);

-- Connections whose retained documents (status, issues) may differ from what was published, in the order in which they changed.
-- Whoever publishes removes only what it has seen: `changes` tells a change that came meanwhile.
create table retained_change (
    connection_id text primary key,
    position      bigint generated always as identity,
    changes       bigint not null default 1
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
create index retained_change_order on retained_change (position);

create function retained_changed() returns trigger language plpgsql as $$
begin
    insert into retained_change as held (connection_id) values (case when tg_op = 'DELETE' then old.connection_id else new.connection_id end)
    on conflict (connection_id) do update set changes = held.changes + 1;
    return null;
end $$;
create trigger connection_changed after insert or delete or update of version on connection for each row execute function retained_changed();
create trigger issue_changed after insert or delete or update on issue for each row execute function retained_changed();

-- Of each issue that is retained, whose it is (.../connections/ID/issues/ISSUE); what was emptied lately is found by an index.
alter table retained_issue add column connection_id text generated always as (reverse(split_part(reverse(topic), '/', 3))) stored;
create index retained_issue_connection on retained_issue (connection_id) where emptied_at is null;
create index retained_issue_emptied on retained_issue (emptied_at) where emptied_at is not null;
create index published_status_ended on published_status (ended_at) where ended_at is not null;

-- What is yet to be said when this begins: by whoever speaks first, at its pace.
insert into retained_change (connection_id)
select c.connection_id
from connection c left join published_status p using (connection_id)
where case when c.state = 'disconnected' then p.ended_at is null else p.version is distinct from c.version end
union
select connection_id from published_status p where not exists (select from connection c where c.connection_id = p.connection_id)
union
select connection_id from issue where solved_at is null
union
select connection_id from retained_issue where emptied_at is null;

-- Lists: those that need a person first, by customer; and what is searched, without reading the connections themselves.
drop index connection_state;
create index connection_list on connection (state, customer_id, connection_id) include (system);
drop index connection_customer;
create index connection_customer on connection (customer_id, connection_id);
