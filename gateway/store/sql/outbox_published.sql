-- $1 positions.
update event set published_at = now() where position = any ($1) and published_at is null
