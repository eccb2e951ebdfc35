-- Who gave a connection's settings, and each credential: whoever runs the gateway (trusted), or a customer (bound), whose addresses obey egress.allow.
alter table connection add column origin text not null default 'trusted' check (origin in ('trusted', 'bound'));
alter table credential add column origin text not null default 'trusted' check (origin in ('trusted', 'bound'));

-- What was given before is told by the audit: the last to give a credential was a customer's token, or a reconnect link. A link's login on the
-- system's own page leads where the operator's OAuth client says.
create temporary table given on commit drop as
select a.connection_id, a.actor,
       exists (select from api_token t where t.customer_id is not null and a.actor in ('token:' || t.name, 'dashboard:' || t.name)) as by_bound_token
from (
    select distinct on (connection_id) connection_id, actor
    from connection_audit where trigger = 'credentials_given' and actor <> 'gateway'
    order by connection_id, at desc, audit_id desc
) a;

update connection c set origin = 'bound'
from given g
where c.connection_id = g.connection_id and g.by_bound_token and c.managed_by = 'api';

update credential c set origin = 'bound'
from given g
where c.connection_id = g.connection_id and (g.by_bound_token or (g.actor = 'link' and c.type <> 'oauth2_authorization_code'));
