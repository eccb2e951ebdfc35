-- $1 how long credits are held (interval). Connections that wait longer for credentials, locked; those in somebody's hands are left for the next time.
select c.connection_id
from connection c
where c.state = 'pending' and c.since < now() - $1::interval
    and exists (select from connection_credit h where h.connection_id = c.connection_id and h.account = 'held')
limit 100
for update of c skip locked
