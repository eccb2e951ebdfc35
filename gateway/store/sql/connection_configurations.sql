-- Which connections there are to serve, how often each was configured, and whether its meters are yet to be brought in line with that.
-- Asked once a second by every replica.
select connection_id, configuration, state in ('active', 'degraded') and meters_of <> configuration as is_behind
from connection where state <> 'disconnected'
