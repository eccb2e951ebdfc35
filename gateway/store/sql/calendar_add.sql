-- $1 customer, $2 calendar, $3 starts, $4 ends of windows that are not cut yet.
insert into calendar_window (customer_id, calendar, window_start, window_end)
select $1, $2, * from unnest($3::timestamptz[], $4::timestamptz[])
