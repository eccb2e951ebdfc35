-- $1 hash. Takes the link; no row when it was taken, or is too old.
delete from login_link where hash = $1 and expires_at > now() returning name, role, customer_id
