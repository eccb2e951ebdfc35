-- $1 connection. Until the transaction ends nobody else decides what is withheld: what a window is compared with stays as it is.
-- Always taken before any window.
select pg_advisory_xact_lock(hashtextextended('fieldgate.withheld.' || $1, 0))
