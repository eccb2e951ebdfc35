-- Whatever a wait is, PostgreSQL and Python hold now() with it: what is no number is none, and nothing is further than 40,000 days.
create function in_seconds(secs double precision) returns interval language sql immutable parallel safe as $$
    select make_interval(secs => case when secs is null then null when secs = 'NaN' then 0
                                      when secs > 3.456e9 then 3.456e9 when secs < -3.456e9 then -3.456e9 else secs end)
$$;

-- Times that were further than a calendar can show, or than anybody waits: tried again now.
update stream set next_run_at = now() where next_run_at > now() + interval '1 day';
update connection set probe_at = now() where probe_at > now() + interval '1 day' and probe_at <> 'infinity';
update meter_mapping set retry_at = null where retry_at > now() + interval '1 day';
update credential set expires_at = '9999-12-29 00:00+00' where expires_at > '9999-12-29 00:00+00';
update credential set expires_at = '0001-01-03 00:00+00' where expires_at < '0001-01-03 00:00+00';
update token set refresh_expires_at = null where refresh_expires_at > now() + interval '40000 days';
update token set expires_at = now() where expires_at > now() + interval '40000 days';
update token set refresh_at = now() where refresh_at > now() + interval '40000 days';

alter table stream add constraint stream_next_run_is_a_time check (next_run_at between '0001-01-03 00:00+00' and '9999-12-29 00:00+00');
alter table credential add constraint credential_end_is_a_time check (expires_at between '0001-01-03 00:00+00' and '9999-12-29 00:00+00');
alter table token add constraint token_end_is_a_time check (refresh_expires_at between '0001-01-03 00:00+00' and '9999-12-29 00:00+00');

-- Runs in a row that the system put off (429): they lengthen the wait, and give up nothing.
alter table stream add column put_off int not null default 0;

-- What stands in a connection's way beside its state: a fault of our own, a wait that its system asked for. One row for each part of the work.
create table connection_trouble (
    connection_id text not null references connection on delete cascade,
    part          text not null,
    detail        text not null,
    since         timestamptz not null default now(),
    primary key (connection_id, part)
);
