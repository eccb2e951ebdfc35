"""The million of killed replicas, small; and what judges it notices each fault."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import asyncpg
import pytest

from tests.fault.rig import Fleet, started
from tests.soak.kills import judged, trial


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("replicas", [1, 2, 3])
async def test_nothing_is_lost_twice_wrong_or_out_of_order(tmp_path: Path, replicas: int) -> None:
    given = Namespace(messages=100_000, kills=15, restarts=2, rate=1_000.0, seed=7)
    found = await trial(tmp_path, replicas, given)
    assert [found[name] for name in ("lost", "duplicated", "wrong", "inversions")] == [0, 0, 0, 0]


async def test_what_judges_notices_each_fault(tmp_path: Path) -> None:
    async with started(tmp_path) as rig:
        daemon = rig.daemon()
        daemon.start()
        await daemon.ready(60)
        await rig.live()
        async with Fleet(rig.broker.port, devices=1) as fleet:
            for part in (1, 2):  # two pushes at least
                await fleet.publish(10, rate=1_000)
                await fleet.flush()
                await rig.reaches("fieldgate_reading", 10 * part, dsn=rig.sink_dsn)
        await daemon.stop()
        good = {"lost": 0, "duplicated": 0, "wrong": 0, "inversions": 0}
        assert await judged(rig, fleet) == good

        async def spoiled(dsn: str, *statements: str) -> dict[str, int]:
            """What is found with the statements done; they are undone again."""
            session = await asyncpg.connect(dsn)
            kept = "telemetry" if dsn == rig.dsn else "fieldgate_reading, fieldgate_reading_journal"
            try:
                for table in kept.split(", "):
                    await session.execute(f"create table kept_{table} as table {table}")
                for statement in statements:
                    await session.execute(statement)
                return dict(await judged(rig, fleet))
            finally:
                for table in kept.split(", "):
                    await session.execute(
                        f"delete from {table}; insert into {table} overriding system value table kept_{table};"
                        f" drop table kept_{table}"
                    )
                await session.close()

        first = "(select min(window_start) from fieldgate_reading)"
        journal = "fieldgate_reading_journal"
        assert await spoiled(rig.dsn, "delete from telemetry where ts = (select max(ts) from telemetry)") == {
            **good,
            "lost": 1,
        }
        assert await spoiled(rig.sink_dsn, f"delete from fieldgate_reading where window_start = {first}") == {
            **good,
            "lost": 1,
        }
        assert await spoiled(
            rig.sink_dsn, f"update fieldgate_reading set value = -1 where window_start = {first}"
        ) == {**good, "wrong": 1}
        again = f"create table again as select * from {journal} where window_start = {first}"
        later = "update again set entry = entry + 1000, written_at = clock_timestamp()"
        assert await spoiled(
            rig.sink_dsn,
            again,
            later,
            f"insert into {journal} overriding system value table again",
            "drop table again",
        ) == {**good, "duplicated": 1, "inversions": 1}
        assert await judged(rig, fleet) == good
