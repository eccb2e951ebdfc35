-- Windows that a scan marked while the initial sync handed them over kept its phase, and nobody computed them.
update due_window d set phase = 'incremental'
from stream s
where d.phase = 'initial' and s.connection_id = d.connection_id and s.phase = 'initial' and s.state = 'done';
