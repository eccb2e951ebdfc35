-- $1 hash. Its credentials are stored with the connection now.
delete from connect_draft where hash = $1
