-- $1 connection, $2 whether one that is blocked is tried, $3 configuration of the link. Whether its system may be called now, by this link.
select exists (select from connection where connection_id = $1 and settings_since <= $3 and (state in ('active', 'degraded') or (state = 'blocked' and $2)))
