-- $1 hash. Whose session it is; the API token that it came by must still be good.
select s.name, s.role, s.customer_id
from dashboard_session s left join api_token t using (token_id)
where s.hash = $1 and s.expires_at > now() and (s.token_id is null or (t.revoked_at is null and (t.expires_at is null or t.expires_at > now())))
