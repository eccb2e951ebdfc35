-- $1 endpoint, $2 customer, null: every customer's events and the gateway's own, $3 address, $4 event types, $5 sealed secret.
insert into webhook_endpoint (endpoint_id, customer_id, url, types, secret) values ($1, $2, $3, $4, $5)
