-- A batch is recorded by one statement, which needs a way to end its transaction itself; and a walk through the history knows how far it is.

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
