-- $1 name, $2 owner.
update lease set owner = null, lease_until = now() where name = $1 and owner = $2
