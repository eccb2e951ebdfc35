-- What came over quotas that are known to be exceeded is counted by the statement that writes the samples beside it: in a flood that is
-- every commit, and a transaction around several statements would be four round trips before each acknowledgement, also of others' messages.

-- Adds to the open excesses of `given`, [{customer, quota, allowed, dead_letters, dropped, dropped_bytes}], in the order in which all writers lock them.
-- `allowed` null: without a limit. Raises FG002 where one of them is not open, so that whoever opens it tells it too. Of null it does nothing.
create function add_excess(given jsonb) returns boolean language plpgsql strict as $$
declare one record;
begin
    for one in
        select * from jsonb_to_recordset(given) as g (customer text, quota text, allowed double precision, dead_letters bigint, dropped bigint, dropped_bytes bigint)
        order by customer collate "C", quota collate "C"
    loop
        update quota_excess
        set allowed = coalesce(one.allowed, 'infinity'), dead_letters = dead_letters + one.dead_letters, dropped = dropped + one.dropped,
            dropped_bytes = dropped_bytes + one.dropped_bytes, last_at = now()
        where customer_id = one.customer and quota = one.quota and ended_at is null;
        if not found then
            raise exception 'quota % of % is not exceeded yet', one.quota, one.customer using errcode = 'FG002';
        end if;
    end loop;
    return true;
end $$;
