-- A replica listens to devices. After a break of half a minute silence counts anew.
insert into listening (since, seen_at) values (now(), now())
on conflict (only_row) do update
    set seen_at = now(), since = case when listening.seen_at < now() - interval '30 seconds' then now() else listening.since end
