-- Which status documents there are, and how often each has changed. Asked once a second.
select connection_id, version from connection
