-- $1 how long a device may be silent. Open alerts of devices that sent nothing for longer are over; what was judged of them is forgotten.
with gone as (
    select alert.alert_id, alert.connection_id, alert.rule_id, alert.device_id
    from alert
    join alert_judgement using (connection_id, rule_id, device_id)
    where alert.well_at is null and alert_judgement.heard_at < now() - $1::interval
    limit 1000
    for update of alert skip locked
), forgotten as (
    delete from alert_judgement using gone
    where (alert_judgement.connection_id, alert_judgement.rule_id, alert_judgement.device_id) = (gone.connection_id, gone.rule_id, gone.device_id)
)
update alert set well_at = greatest(now(), alert.opened_at), why = 'device_gone', version = version + 1, changed_at = clock_timestamp()
from gone where alert.alert_id = gone.alert_id
returning alert.*
