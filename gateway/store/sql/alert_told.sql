-- $1 alerts, $2 their versions as they were told. What is changing just now is not waited for, and told again.
with said as materialized (
    select held.alert_id
    from unnest($1::text[], $2::bigint[]) as seen (alert_id, version)
    cross join lateral (
        select a.alert_id from alert a
        where a.alert_id = seen.alert_id and a.version = seen.version and a.told is distinct from a.version
        for update skip locked
    ) held
)
update alert a set told = a.version from said where a.alert_id = said.alert_id
