-- $1 connection, $2 name, $3 phase, $4 fence. The first step of a transaction that writes windows: whoever changes meters or ends the connection locks the
-- row whole and so waits for us before it takes a window, or we for it.
select true from stream where (connection_id, name, phase, fence) = ($1, $2, $3, $4) for key share
