-- $1 connection, $2 rule, $3 document, $4 whether it judges as before.
insert into alert_rule (connection_id, rule_id, document, begun_at) values ($1, $2, $3, now())
on conflict (connection_id, rule_id) do update
    set document = excluded.document, begun_at = case when $4 then alert_rule.begun_at else excluded.begun_at end
