-- $1 customer, or null for all; $2 the hour that is under way. Silent devices ($3 at most, by the index that holds no others), and readings of this hour.
select
    (select count(*) from (
        select 1 from device_state where silent_since is not null and ($1::text is null or customer_id = $1) limit $3
    ) silent) as silent,
    (select coalesce(sum(h.delivered + h.modified), 0)::bigint from connection_hour h
     where h.hour = $2 and ($1::text is null or h.connection_id in (select connection_id from connection where customer_id = $1))) as readings
