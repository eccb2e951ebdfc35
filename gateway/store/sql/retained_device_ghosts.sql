-- $1 limit. Topics of devices that the broker retains and that are not silent, or that nobody knows any more.
select r.topic from retained_device r
where r.emptied_at is null
  and not exists (select from device_state s where s.customer_id = r.customer_id and s.device_id = r.device_id and s.silent_since is not null)
limit $1
