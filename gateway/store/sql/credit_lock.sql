-- No parameters. Serialises every move of credits until the transaction ends; the next statement sees what the one before committed.
select from credit_pool where pool_id = 1 for update
