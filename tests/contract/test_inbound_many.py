"""Many records, walked in pages: each once, with a bounded number of requests and flat memory. Ten thousand
of them; a hundred thousand in the long tests.
"""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from connectors.maintainx import reader as maintainx_reader
from tests.contract.harness import Calls
from tests.contract.inbound_harness import (
    HttpJsonOffsetInbound,
    HttpJsonOrderedInbound,
    MaintainXInbound,
    PostgresInbound,
)

COUNTS = [10_000, pytest.param(100_000, marks=pytest.mark.soak)]
SECOND = timedelta(seconds=1)
# The V2 server, odatapy and Tryton look at every record for every page, so this would measure them; their
# connectors keep nothing from page to page, which is what is measured here.
SLICES = 20


def grown_bytes(count: int) -> int:
    """What the test itself keeps of the keys, and a page."""
    return count * 200 + (8 << 20)


async def walk(connector: Any, stream: str, since: datetime, until: datetime) -> tuple[int, int]:
    """How many different keys, and the largest step of memory between pages behind the first."""
    seen: set[str] = set()
    cursor, base, peak = None, 0, 0
    tracemalloc.start()
    try:
        while True:
            page = await connector.pull(stream, since, until, cursor)
            seen |= {record.key for record in page.records}
            cursor = page.cursor
            del page
            held = tracemalloc.get_traced_memory()[0]
            base = base or held
            peak = max(peak, held - base)
            if cursor is None:
                return len(seen), peak
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("count_of", COUNTS)
@pytest.mark.parametrize("kind", [HttpJsonOrderedInbound, HttpJsonOffsetInbound])
async def test_a_long_list(
    kind: Any, count_of: int, contract_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "more", {**kind.more, "page": 5000})
    harness = kind()
    async with harness.running(contract_dsn, monkeypatch):
        at = datetime.now(UTC).replace(microsecond=0) - timedelta(days=2)
        for number in range(count_of):
            harness.server.put(f"k{number:06d}", at + (number // 3) * timedelta(milliseconds=10))
        calls = Calls()
        connector = harness.connector(calls=calls)
        count, grown = await walk(connector, "things", at, at + timedelta(days=1))
        assert count == count_of
        assert len(calls.seen) <= count_of // 5000 * 2 + 5
        assert grown < grown_bytes(count_of), "besides the keys of the test itself"
        await connector.close()


@pytest.mark.parametrize("count_of", COUNTS)
async def test_a_long_table(count_of: int, contract_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    harness = PostgresInbound()
    async with harness.running(contract_dsn, monkeypatch):
        at = datetime(2026, 11, 1, tzinfo=UTC)
        await harness.owner.execute(
            f"insert into {harness.table} select n, timestamp '2026-11-01' + n / 3 * interval '1 second',"
            f" 'open', 'x', 1 from generate_series(1, {count_of}) n"
        )
        await harness.owner.execute(f"create index on {harness.table} (updated, id)")
        monkeypatch.setattr("tests.contract.inbound_harness.PAGE", 200)
        connector = harness.connector()
        count, grown = await walk(connector, "things", at, at + timedelta(days=1))
        assert count == count_of
        assert grown < grown_bytes(count_of)
        await connector.close()


@pytest.mark.parametrize("count_of", COUNTS)
async def test_slices_of_many_work_orders_do_not_begin_at_today(
    count_of: int, contract_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An initial sync asks for slices, the newest first. MaintainX can only be walked from its newest change
    on.
    """
    harness = MaintainXInbound()
    async with harness.running(contract_dsn, monkeypatch):
        monkeypatch.setattr(maintainx_reader, "_PAGE_SIZE", 200)
        harness.cmms.switches.rate_limit = 1_000_000
        now = datetime.now(UTC).replace(microsecond=0)
        for number in range(count_of):
            await harness.put(number + 1, now - (number // 3) * SECOND)
        calls = Calls()
        connector = harness.connector(calls=calls)
        step = timedelta(seconds=count_of // 3 // SLICES + 1)
        monkeypatch.setattr(connector._limiter, "acquire", _at_once)  # type: ignore[attr-defined]
        seen: set[str] = set()
        high = now + SECOND
        for _ in range(SLICES):
            cursor = None
            while True:
                page = await connector.pull("work_orders", high - step, high, cursor)  # type: ignore[attr-defined]
                seen |= {record.key for record in page.records}
                cursor = page.cursor
                if cursor is None:
                    break
            high -= step
        assert len(seen) == count_of
        assert len(calls.seen) <= count_of // 200 + 4 * SLICES, "about each page once"
        await connector.close()


async def _at_once(*, max_wait_seconds: float) -> None:
    """No limit."""
