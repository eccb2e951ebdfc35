-- $1 hash, $2 attempts that a link allows. Counts one more; no row when the link is used up, too old, or was replaced.
update reauthorization_link l set attempts = attempts + 1, submitted_at = now()
where l.hash = $1 and l.expires_at > now() and l.attempts < $2
  and not exists (select from connection_audit a where a.connection_id = l.connection_id and a.at >= l.submitted_at and a.trigger = 'probe_succeeded')
returning connection_id
