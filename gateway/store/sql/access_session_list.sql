-- $1 customer or null (every one), $2 limit. Who is logged in, the latest first. A session is named by a part of its hash, from which nobody finds the cookie.
select encode(substring(s.hash from 1 for 6), 'hex') as session_id, s.name, s.role, s.customer_id, s.opened_at, s.expires_at
from dashboard_session s left join api_token t using (token_id)
where s.expires_at > now() and ($1::text is null or s.customer_id = $1)
  and (s.token_id is null or (t.revoked_at is null and (t.expires_at is null or t.expires_at > now())))
order by s.opened_at desc nulls last, s.hash limit $2
