-- $1 digest, $2 whether the user was let in. Of a logon that was not refused: its place is free again; one that was let in forgives those that were refused.
update tried_logon set taken = case when $2 then 0 else greatest(taken - 1, 0) end where digest = $1
