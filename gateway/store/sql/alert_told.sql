-- $1 alerts, $2 their versions as they were told. What is changing just now is not waited for, and told again.
with said as materialized (
    select held.alert_id
    from unnest($1::text[], $2::bigint[]) as seen (alert_id, version)
    cross join lateral (
        select alert.alert_id from alert
        where alert.alert_id = seen.alert_id and alert.version = seen.version and alert.told is distinct from alert.version
        for update skip locked
    ) held
)
update alert set told = alert.version from said where alert.alert_id = said.alert_id
