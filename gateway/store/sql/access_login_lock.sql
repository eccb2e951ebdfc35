-- $1 issuer. Logins by this provider begin, and are ended by it, one at a time: else neither sees the other's row, and who is logged out stays.
select pg_advisory_xact_lock(hashtextextended('fieldgate.login.' || $1, 0))
