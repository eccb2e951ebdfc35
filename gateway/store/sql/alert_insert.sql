-- $1 alert, $2 customer, $3 connection, $4 rule, $5 device, $6 metric, $7 kind, $8 severity, $9 title, $10 text, $11 value, $12 the rule's beginning,
-- $13 since, $14 opened, $15 well, $16 why. Due to be raised at once.
insert into alert (alert_id, customer_id, connection_id, rule_id, device_id, metric, kind, severity, title, text, value, begun_at,
                   since, opened_at, well_at, why)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
