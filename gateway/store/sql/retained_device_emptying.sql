-- $1 topics of devices that were emptied. Those emptied more than a day ago are forgotten.
with old as (
    delete from retained_device where emptied_at < now() - interval '1 day' and topic <> all ($1::text[])
)
update retained_device set emptied_at = now() where topic = any ($1::text[])
