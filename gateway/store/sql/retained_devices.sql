-- $1 topics of devices. Those of them that the broker retains.
select topic from retained_device where topic = any($1) and emptied_at is null
