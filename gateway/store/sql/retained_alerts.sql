-- Topics of alerts that the broker retains.
select topic from retained_alert where emptied_at is null
