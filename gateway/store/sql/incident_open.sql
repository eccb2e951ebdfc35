-- $1 scope, $2 key, $3 since, $4 systems, $5 operations, $6 connections, $7 customers, $8 request ids, $9 detail. None when one is open.
insert into incident (scope, key, since, systems, operations, connections, customers, request_ids, detail) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
on conflict (scope, key) where closed_at is null do nothing
returning *
