    with recursive heads as (
        (
            select d.lane, d.position from webhook_delivery d
            where d.endpoint_id = w.endpoint_id and d.state = 'pending' order by d.lane, d.position limit 1
        )
        union all
        select later.lane, later.position
        from heads
        cross join lateral (
            select d.lane, d.position from webhook_delivery d
            where d.endpoint_id = w.endpoint_id and d.state = 'pending' and d.lane > heads.lane order by d.lane, d.position limit 1
        ) later
    )
