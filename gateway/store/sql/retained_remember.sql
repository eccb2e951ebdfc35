-- $1 topic of an issue.
insert into retained_issue (topic) values ($1) on conflict (topic) do update set emptied_at = null
