-- $1 hash. The link, the connection as it is now, what moved it last, and whether a verification succeeded after credentials were given.
select l.connection_id, l.attempts, l.submitted_at, l.expires_at > now() as is_open, l.created_at, c.title, c.customer_id, c.system, c.hosting, c.state, c.since,
       -- an active connection has no reason: what became of the credentials that were given for it is in its audit
       coalesce(c.reason, (select a.reason from connection_audit a where a.connection_id = l.connection_id order by a.at desc limit 1)) as reason,
       c.prior_state, c.credential_type,
       (select a.trigger from connection_audit a where a.connection_id = l.connection_id order by a.at desc limit 1) as last_trigger,
       exists (select from connection_audit a where a.connection_id = l.connection_id and a.at >= l.submitted_at and a.trigger = 'probe_succeeded') as succeeded
from reauthorization_link l join connection c using (connection_id)
where l.hash = $1
