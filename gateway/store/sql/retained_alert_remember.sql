-- $1 topics of alerts.
insert into retained_alert (topic) select unnest($1::text[]) on conflict (topic) do update set emptied_at = null
