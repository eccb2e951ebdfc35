-- $1 digest of the user and the system, $2 logons that may fail, $3 seconds after which they are forgotten. True: one more may go out. Sweeps.
with swept as (
    delete from tried_logon where at < now() - in_seconds($3) and digest <> $1
)
insert into tried_logon (digest, taken, at) values ($1, 1, now())
on conflict (digest) do update
    set taken = case when tried_logon.at < now() - in_seconds($3) then 1 else tried_logon.taken + 1 end, at = now()
    where tried_logon.taken < $2 or tried_logon.at < now() - in_seconds($3)
returning true
