-- $1 topics of issues. In one order, as everybody takes them.
insert into retained_issue (topic)
select topic from unnest($1::text[]) as given (topic)
order by topic
on conflict (topic) do update set emptied_at = null
