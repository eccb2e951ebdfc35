-- $1 digests: messages that could be read after all, and are stored by the same transaction.
delete from dead_letter where kind = 'message' and digest = any($1::bytea[])
