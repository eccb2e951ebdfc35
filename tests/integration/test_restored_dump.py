"""After a logical dump went into another cluster, what was scanned stays scanned and the rest is found."""

from __future__ import annotations

from gateway.store.migrate import rebase_revisions
from gateway.store.pool import Database

# What a dump of a cluster far ahead holds: two samples below the watermark, one above it, one of a customer
# without a connection.
DUMP = """
insert into customer (customer_id) values ('acme'), ('globex');
insert into device (customer_id, device_id, revision) values ('acme', 'pump', '900000000'), ('globex', 'fan', '900000000');
select ensure_partition('telemetry', '2026-01-01');
insert into telemetry (customer_id, device_id, ts, metrics, received_at, revision) values
    ('acme', 'pump', '2026-01-01 00:00Z', '{"t": 1}', now(), '900000001'),
    ('acme', 'pump', '2026-01-01 00:01Z', '{"t": 2}', now(), '900000002'),
    ('acme', 'pump', '2026-01-01 00:02Z', '{"t": 3}', now(), '900000010'),
    ('globex', 'fan', '2026-01-01 00:00Z', '{"t": 4}', now(), '900000003');
insert into connection (connection_id, customer_id, system, hosting, tier, state, declared_digest)
values ('c', 'acme', 'postgres', 'cloud', 1, 'active', '');
insert into stream (connection_id, name, phase, watermark, device_watermark) values ('c', 'readings', 'incremental', '900000005', '900000005');
"""

SCANNED_NEXT = """
select t.metrics ->> 't' as t
from stream s join connection c using (connection_id) join telemetry t using (customer_id)
where s.phase = 'incremental' and t.revision >= s.watermark and t.revision < pg_snapshot_xmin(pg_current_snapshot())
order by t.ts
"""


async def test_only_what_was_not_scanned_is_scanned_again(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(DUMP)
        assert await connection.fetch(SCANNED_NEXT) == [], (
            "the trap: revisions of the old cluster are ahead of this one's transactions"
        )
    assert await rebase_revisions(database)
    assert not await rebase_revisions(database), "once is enough"
    async with database.connection() as connection:
        assert [row["t"] for row in await connection.fetch(SCANNED_NEXT)] == ["3"]
        await connection.execute(
            "update telemetry set metrics = '{\"t\": 5}', revision = pg_current_xact_id() where ts = '2026-01-01 00:00Z' and customer_id = 'acme'"
        )
        assert [row["t"] for row in await connection.fetch(SCANNED_NEXT)] == ["5", "3"]
