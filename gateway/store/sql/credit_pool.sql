-- No parameters. The row that decides.
select capacity, held, posted, quotas from credit_pool where pool_id = 1
