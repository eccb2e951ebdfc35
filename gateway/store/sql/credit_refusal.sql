-- $1 customer whose quota refused, or '' for the pool. A row when the last one was told more than a minute ago.
insert into credit_refusal (customer_id) values ($1)
on conflict (customer_id) do update set at = now() where credit_refusal.at <= now() - interval '1 minute'
returning true
