-- The health of each operation is kept apart, so that a good probe does not cure pushes that are refused or fail.

-- One row a connection and operation. What a row of before was about is only known of failures; a success of it is taken for a push's.
alter table call_health
    add column operation     text,
    add column suspect_since timestamptz,            -- a web page has answered instead of the system ever since
    add column denied_since  timestamptz;            -- first of the denials in a row
update call_health set operation = case when failing_since is not null and operations = array['probe'] then 'probe' else 'push' end;
alter table call_health
    alter column operation set not null,
    drop constraint call_health_pkey,
    add primary key (connection_id, operation),
    drop column operations;

-- The operation whose failure the state comes from; null: not known, or nothing fails. recovered_at: of the last recovery from degraded.
alter table connection
    add column operation    text,
    add column recovered_at timestamptz,
    drop column failing_since,
    drop column suspect_since;

-- One run may push one reading although its connection is blocked.
alter table stream add column trial boolean not null default false;

-- What a refused logon was for: only the same gives its place back. Null of those of before, which any success gives back as it did then.
alter table logon add column operation text;

-- What is held back: everything (probe), or only pushes.
alter table breaker add column operation text not null default 'probe' check (operation in ('probe', 'push'));
