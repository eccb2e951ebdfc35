-- $1 name, $2 owner. Who waits for a lease learns of it at once.
with released as (
    update lease set owner = null, lease_until = now() where name = $1 and owner = $2 returning true
)
select pg_notify('fieldgate_lease', '') from released
