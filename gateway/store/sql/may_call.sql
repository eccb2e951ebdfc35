-- $1 connection, $2 whether one that is blocked is tried. Whether its system may be called now.
select exists (select from connection where connection_id = $1 and (state in ('active', 'degraded') or (state = 'blocked' and $2)))
