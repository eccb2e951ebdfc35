-- $1 topics of alerts. In one order, as everybody takes them.
insert into retained_alert as held (topic)
select topic from unnest($1::text[]) as given (topic)
order by topic
on conflict (topic) do update set emptied_at = null where held.emptied_at is not null
