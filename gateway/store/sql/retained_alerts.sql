-- $1 topics of alerts. Those of them that the broker retains.
select topic from retained_alert where topic = any($1) and emptied_at is null
