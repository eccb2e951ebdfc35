-- $1 endpoint. With what waits for it.
with dropped as (
    delete from webhook_delivery where endpoint_id = $1
), gone as (
    delete from webhook_endpoint where endpoint_id = $1 returning endpoint_id
)
select count(*) from gone
