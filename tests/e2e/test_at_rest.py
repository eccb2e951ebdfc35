"""What a whole daemon asks of PostgreSQL while there is nothing to do, and nobody looks at it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.daemon import Daemon
from benchmarks.servers import Mosquitto, wait_until
from gateway.store.pool import Database

PERIODS = 2
"""A period is one renewal of the leases, each five seconds: rates of ours are told by it and by no clock of the
test's, so a machine that stands still changes little.
"""

MAX_ASKED = 45
"""Of a period. Seven leases are renewed, and nine things noted or folded as often: sessions, replicas, what was
heard, quotas, moves, counts. Whoever is told looks all the same: events 1, webhooks 2, records 3, documents 3,
breakers 2 with the decision, probes 2. Other replicas are looked for 5 times, devices 2 or 3 times. With the rare
that is 36; it was 125 when all of it was asked for.
"""


class _Counted:
    """Asks the database, and knows how often it did."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.asked = 0

    async def value(self, statement: str) -> object:
        self.asked += 1
        return await self._database.fetchval(statement)

    async def transactions(self) -> int:
        """Of everybody else so far."""
        found = await self.value(
            "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()"
        )
        assert isinstance(found, int)
        return found - self.asked

    async def renewed(self, times: int) -> None:
        """So many renewals of a lease have passed."""
        for _ in range(times):
            held = await self.value(_LEASE)

            async def again(held: object = held) -> bool:
                return await self.value(_LEASE) != held

            await wait_until(again, what="the lease is renewed", every=0.2)


_LEASE = "select lease_until from lease where name = 'outbox'"


async def test_a_daemon_at_rest_asks_little(
    tmp_path: Path, mosquitto: Mosquitto, dsn: str, database: Database
) -> None:
    daemon = Daemon(tmp_path, broker_url=mosquitto.url, dsn=dsn)
    daemon.start()
    try:
        await daemon.ready()
        counted = _Counted(database)
        await counted.renewed(3)  # what follows a start is over
        before = await counted.transactions()
        await counted.renewed(PERIODS)
        asked = await counted.transactions() - before
    finally:
        await daemon.stop()
    assert PERIODS * 10 < asked < PERIODS * MAX_ASKED
