-- replicas_here
-- $1 seconds after which a silent replica counts as gone. Whether one is here.
select exists (select from announced_replica where last_seen_at >= now() - in_seconds($1))
