-- $1 connection. Whether a withheld window is to be looked at again.
select exists (select from withheld where connection_id = $1 and again)
