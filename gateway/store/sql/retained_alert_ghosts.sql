-- $1 limit. Topics of alerts that the broker retains and that are over, or that nobody knows any more.
select r.topic from retained_alert r
where r.emptied_at is null
  and not exists (
      select from alert a join connection c using (connection_id)
      where a.alert_id = r.alert_id and a.state <> 'cleared' and c.state <> 'disconnected'
  )
limit $1
