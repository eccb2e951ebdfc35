-- Which connections there are to serve, and how often each was configured. Asked once a second by every replica.
select connection_id, configuration from connection where state <> 'disconnected'
