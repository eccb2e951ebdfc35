-- $1 limit. Connections whose retained documents may differ from what was published, the first that changed first. Asked once a second: empty
-- where nothing has changed.
select connection_id, changes from retained_change order by position limit $1
