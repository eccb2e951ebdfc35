-- What is kept for a connection that does not read, how it was told, and what it lost.

-- When its customer was told that unread telemetry is about to be dropped; null: it is not.
alter table connection add column buffer_told_at timestamptz;

-- What was received for times before this was dropped before the stream had read or delivered all of it.
alter table stream add column lost_until timestamptz;
