-- $1 the connection after which to go on, $2 limit. Connections that have documents, by id.
select connection_id from connection where connection_id > $1 and state <> 'disconnected' order by connection_id limit $2
