-- $1 connection, $2 name, $3 phase, $4 started, $5 outcome, $6 samples, $7 delivered, $8 modified, $9 unchanged, $10 rejected, $11 retried, $12 error.
insert into sync_run (connection_id, name, phase, started_at, outcome, samples, delivered, modified, unchanged, rejected, retried, error)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
