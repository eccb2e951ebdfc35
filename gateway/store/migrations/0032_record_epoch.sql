-- A cursor says which record log it is of, and a confirmation which records.

-- Random; renewed when a cursor shows that the log was longer than it is now: a restore, or a standby that lacked its end. What it holds from there on is not
-- what such a cursor has seen.
alter table record_log add column epoch bigint not null default (random() * 9007199254740991)::bigint;

-- The confirmation is on each record that was told: unseen is 2 on what a person was told is missing, 3 on what he said is gone. What was told before is told
-- anew by the next walk, which is due.
update inbound_stream set vanished = 0, next_run_at = least(next_run_at, now()) where vanished > 0;
alter table inbound_stream drop column may_vanish;
