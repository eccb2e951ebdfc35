-- No parameters. Credits held or posted, by tier.
select c.tier, sum(h.amount)::int as used from connection_credit h join connection c using (connection_id) group by c.tier
