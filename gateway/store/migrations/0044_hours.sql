-- What each connection delivered, by the hour, for charts: kept as runs end, so that nobody goes through all runs to draw a line.
create table connection_hour (
    connection_id text not null references connection on delete cascade,
    hour          timestamptz not null,
    delivered     bigint not null,
    modified      bigint not null,
    rejected      bigint not null,
    primary key (connection_id, hour)
) with (fillfactor = 70);
create index connection_hour_old on connection_hour (hour);

-- Of whoever ends a run, an older daemon beside us too. The row of the connection is held then, so nobody waits for anybody here.
create function run_counted() returns trigger language plpgsql as $$
begin
    insert into connection_hour as held (connection_id, hour, delivered, modified, rejected)
    values (new.connection_id, date_trunc('hour', new.ended_at, 'UTC'), new.delivered, new.modified, new.rejected)
    on conflict (connection_id, hour) do update
    set delivered = held.delivered + excluded.delivered, modified = held.modified + excluded.modified, rejected = held.rejected + excluded.rejected;
    return null;
end $$;
create trigger run_counted after insert on sync_run for each row when (new.delivered + new.modified + new.rejected > 0) execute function run_counted();

insert into connection_hour (connection_id, hour, delivered, modified, rejected)
select connection_id, date_trunc('hour', ended_at, 'UTC'), sum(delivered), sum(modified), sum(rejected)
from sync_run where delivered + modified + rejected > 0 group by 1, 2;
