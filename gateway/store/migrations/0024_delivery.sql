-- A batch is recorded by one statement, which needs a way to end its transaction itself; a counter's first window finds out that it is without
-- asking every day; and a walk through the history knows how far it is.

-- For a statement that finds in its last step that the lease is another's: raises FG001, and with that undoes what the statement wrote.
create function lease_lost() returns bigint language plpgsql as $$
begin
    raise exception 'the lease is lost' using errcode = 'FG001';
end $$;

-- When the walk of an initial sync began, and how many samples there are to walk in all (an estimate) and have been walked.
alter table stream
    add column initial_started_at timestamptz,
    add column initial_total      bigint,
    add column initial_walked     bigint not null default 0;

-- No sample of the device is earlier, of those in store. Null: not known, for what was registered before this was kept; then every day is looked at.
alter table device add column oldest_at timestamptz;
