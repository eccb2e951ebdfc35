-- $1 customer. Two that cut at once, by a zone's rules of two versions, would have windows that overlap. Held until the commit.
select pg_advisory_xact_lock(hashtextextended('fieldgate.calendar.' || $1, 0))
