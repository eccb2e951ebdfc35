-- $1 how long ago. Nodes that sent nothing since: their next message asks for a birth, as that of a new one does.
delete from sparkplug_node where seen_at < now() - $1::interval
