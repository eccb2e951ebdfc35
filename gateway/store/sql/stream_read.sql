-- $1 connection, $2 name, $3 phase, $4 fence, $5 seconds for which a scan by another connection's run counts as ours. Where the stream is. Until the transaction
-- ends the meters stay as they are (a change of them locks the row whole), while the other half of the run, or a claim, may go on beside it: the
-- last step proves the fence.
select watermark, device_watermark, initial_from, initial_cursor, initial_until, meters_of,
       coalesce(scanned_along_at > now() - in_seconds($5), false) as is_scanned
from stream
where (connection_id, name, phase, fence) = ($1, $2, $3, $4)
for key share
