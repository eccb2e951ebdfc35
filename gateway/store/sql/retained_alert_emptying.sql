-- $1 topic of an alert that was emptied. Those emptied more than a day ago are forgotten.
with old as (
    delete from retained_alert where emptied_at < now() - interval '1 day' and topic <> $1
)
update retained_alert set emptied_at = now() where topic = $1
