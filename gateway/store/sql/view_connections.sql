-- $1 connection or null, $2 customer or null, $3 system or null, $4 states or null, $5 ids after this one, $6 limit. Never a credential.
select c.connection_id, c.customer_id, c.system, c.hosting, c.tier, c.state, c.reason, c.since, c.version, c.settings, c.sync, c.meters, c.managed_by,
       c.credential_type, c.account, c.price, c.created_at, c.request_id,
       coalesce((select jsonb_agg(jsonb_build_object('id', i.issue_id, 'code', i.code, 'severity', i.severity, 'since', i.since, 'title', i.title,
                                                     'instructions', i.instructions, 'action_url', i.action_url, 'request_id', i.request_id))
                 from issue i where i.connection_id = c.connection_id and i.solved_at is null), '[]') as issues
from connection c
where ($1::text is null or c.connection_id = $1) and ($2::text is null or c.customer_id = $2) and ($3::text is null or c.system = $3)
  and ($4::text[] is null or c.state = any($4)) and c.connection_id > $5
order by c.connection_id
limit $6
