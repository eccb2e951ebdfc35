-- Connections with nothing to do cost nothing: who serves them is told of changes, and their streams rest together.

-- What the meters were made of (rules, the system's resolution): equal, and there is nothing to bring in line. Null: not known.
-- `meter_count`: how many there are, so that a new device need not have them counted. Null: not known.
alter table connection add column meters_digest text;
alter table connection add column meter_count int;

-- How often the stream runs, for those that rest. Null: not known, so it runs.
alter table stream add column every interval;

-- Whoever serves connections listens: a change of one costs that one. A schedule of probes or a version of a status document is no change.
create function connection_told() returns trigger language plpgsql as $$
begin
    perform pg_notify('fieldgate_connection', new.connection_id);
    return null;
end $$;
create trigger connection_made_told after insert on connection for each row execute function connection_told();
create trigger connection_changed_told after update on connection for each row
    when ((old.state, old.configuration, old.meters_of) is distinct from (new.state, new.configuration, new.meters_of))
    execute function connection_told();

-- An empty payload: what stands in the way of some connection has changed.
create function trouble_told() returns trigger language plpgsql as $$
begin
    perform pg_notify('fieldgate_connection', '');
    return null;
end $$;
create trigger trouble_changed after insert or delete on connection_trouble for each statement execute function trouble_told();

-- Those that somebody waits for are found among thousands whose probe is overdue, and the other way round.
drop index connection_probe;
create index connection_probe on connection (probe_at) where state in ('active', 'degraded', 'blocked');
create index connection_wanted on connection (probe_at)
    where state in ('verifying', 'disconnecting') or (candidate is not null and state in ('pending', 'reauthorization_required'));
