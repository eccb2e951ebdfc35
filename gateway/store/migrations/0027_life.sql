-- The key of the advisory lock that a replica's own session holds for as long as it lives. Null: a replica of an earlier version, or one whose
-- session is being opened; its leases end by the clock alone.
alter table replica add column life bigint;
