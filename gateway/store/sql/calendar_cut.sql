-- $1 customer, $2 calendars. From where to where the windows of each are cut, and the first and the last day of which the customer has samples.
select wanted.calendar,
       (select w.window_start from calendar_window w
        where w.customer_id = $1 and w.calendar = wanted.calendar order by w.window_start limit 1) as cut_from,
       (select w.window_end from calendar_window w
        where w.customer_id = $1 and w.calendar = wanted.calendar order by w.window_start desc limit 1) as cut_until,
       (select d.day from customer_day d where d.customer_id = $1 order by d.day limit 1) as first_day,
       (select d.day from customer_day d where d.customer_id = $1 order by d.day desc limit 1) as last_day
from unnest($2::text[]) as wanted (calendar)
