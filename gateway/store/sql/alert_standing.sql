-- $1 connection, $2 rule, $3 device, $4 a time, $5 the rule's beginning. The alerts that reach to that time or later, and the last before it.
select alert_id, since, opened_at, well_at, value from alert
where connection_id = $1 and rule_id = $2 and device_id = $3 and begun_at = $5 and why is distinct from 'late_sample'
  and (well_at is null or well_at >= $4
       or opened_at = (select max(opened_at) from alert
                       where connection_id = $1 and rule_id = $2 and device_id = $3 and begun_at = $5
                         and why is distinct from 'late_sample' and opened_at < $4))
order by opened_at
