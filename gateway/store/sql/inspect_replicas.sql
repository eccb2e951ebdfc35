-- $1 seconds after which a silent replica counts as gone. The replicas that are here, and the names of leases that somebody holds.
select (select count(*) from announced_replica where last_seen_at >= now() - in_seconds($1)) as replicas,
       array(select name from lease where lease_until > now() order by name) as held
