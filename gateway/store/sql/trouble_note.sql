-- $1 connection, $2 part, $3 detail. The version of the status document rises when what it shows has changed.
with noted as (
    insert into connection_trouble as t (connection_id, part, detail)
    select connection_id, $2, $3 from connection where connection_id = $1
    on conflict (connection_id, part) do update set detail = excluded.detail where t.detail <> excluded.detail
    returning connection_id
)
update connection set version = version + 1 where connection_id in (select connection_id from noted)
