-- $1 now. Whether a device is due to be looked at, or changes of metrics are to be told.
select exists (select from device_state where due_at <= $1) or exists (select from device_change where due_at <= now())
