-- $1 how long a device may be silent. Open alerts of devices that sent nothing for longer are over; what was judged of them is forgotten.
with gone as (
    select a.alert_id, a.connection_id, a.rule_id, a.device_id
    from alert a
    join alert_judgement j using (connection_id, rule_id, device_id)
    where a.well_at is null and j.heard_at < now() - $1::interval
    limit 1000
    for update of a skip locked
), forgotten as (
    delete from alert_judgement j using gone
    where (j.connection_id, j.rule_id, j.device_id) = (gone.connection_id, gone.rule_id, gone.device_id)
)
update alert a set well_at = greatest(now(), a.opened_at), why = 'device_gone', version = version + 1, changed_at = clock_timestamp()
from gone where a.alert_id = gone.alert_id
returning a.*
