-- $1 endpoint, $2 generation of the secret that is replaced, $3 the new one, sealed, $4 until when the old one signs too.
update webhook_endpoint set previous_secret = secret, previous_until = $4, secret = $3, generation = generation + 1
where endpoint_id = $1 and generation = $2
returning generation
