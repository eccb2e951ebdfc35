-- $1 endpoint, $2 generation, $3 secret and $4 previous secret, both sealed anew. Nothing when the secret was rotated meanwhile.
update webhook_endpoint set secret = $3, previous_secret = $4 where endpoint_id = $1 and generation = $2
