-- No parameters. The pool and the last line of the ledger.
select coalesce(p.capacity, 0) as capacity, coalesce(p.held, 0) as held, coalesce(p.posted, 0) as posted,
       coalesce((select t.transfer_id from credit_transfer t order by t.transfer_id desc limit 1), 0) as last
from (select) one left join credit_pool p on p.pool_id = 1
