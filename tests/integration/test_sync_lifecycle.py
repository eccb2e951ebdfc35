"""The lifecycle: what is declared, verified, refused and given again, and who may be called meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from benchmarks.servers import wait_until
from gateway.connections import lifecycle
from gateway.connections.lifecycle import Lifecycle
from gateway.model.connection import State, Trigger
from gateway.model.connector import Health
from gateway.model.errors import AuthRefused, BadConfiguration, ConfigError, ConnectorError, PermissionDenied, Unavailable
from gateway.store import connections, leases
from gateway.store.pool import Database
from tests.fixtures.scripted import Scripted
from tests.fixtures.sync_rig import ALL, BASE, CONNECTION, Rig


@asynccontextmanager
async def living(rig: Rig, digest: str = "1", owner: str = "replica-a", service: Lifecycle | None = None) -> AsyncIterator[Lifecycle]:
    service = service or replace(rig, owner=owner).lifecycle
    await service.declare({rig.name: (replace(rig.declaration, digest=digest), rig.link)})
    running = asyncio.create_task(service.run())
    try:
        yield service
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def reaches(rig: Rig, state: str) -> None:
    async def there() -> bool:
        return await rig.state() == state

    await wait_until(there, what=f"the connection is {state}", seconds=10)


async def test_a_declared_connection_is_verified_and_becomes_active(database: Database) -> None:
    woken = asyncio.Event()
    connector = Scripted()
    rig = Rig(database, connector, initial_days=1)
    await rig.store(("d1", BASE, 1.0))
    service = Lifecycle(database, owner="replica-a", max_future=timedelta(minutes=5), on_active=woken.set)
    async with living(rig, service=service):
        await asyncio.wait_for(woken.wait(), 10)
    assert await rig.state() == "active" and connector.probes == 1
    moves = await rig.rows("select from_state, to_state, trigger from connection_audit order by audit_id")
    assert [tuple(move.values()) for move in moves] == [("pending", "verifying", "credentials_given"), ("verifying", "active", "probe_succeeded")]
    assert [row["phase"] for row in await rig.rows("select phase from stream order by phase")] == ["incremental", "initial"]
    assert [row["meter"] for row in await rig.rows("select meter from meter_mapping")] == ["d1"]


@pytest.mark.parametrize(
    ("error", "state"),
    [(AuthRefused("bad key"), "reauthorization_required"), (PermissionDenied("no right"), "blocked"), (BadConfiguration("no such service"), "blocked")],
)
async def test_what_a_probe_is_refused_for_is_where_the_connection_goes(database: Database, error: ConnectorError, state: str) -> None:
    connector = Scripted(probe_error=error)
    rig = Rig(database, connector)
    async with living(rig):
        await reaches(rig, state)
    assert connector.probes == 1
    (row,) = await rig.rows("select reason from connection")
    assert row["reason"] == str(error)
    connector.probe_error = None
    async with living(rig, digest="2"):
        await reaches(rig, "active")


async def test_the_same_declaration_again_asks_nothing(database: Database) -> None:
    connector = Scripted()
    rig = Rig(database, connector)
    async with living(rig):
        await reaches(rig, "active")
    async with living(rig):
        assert await rig.state() == "active"
    assert connector.probes == 1 and len(await rig.rows("select * from connection_audit")) == 2


async def test_a_system_that_is_away_is_probed_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "VERIFY_CAP_SECONDS", 0.01)
    monkeypatch.setattr(lifecycle, "POLL_SECONDS", 0.02)
    connector = Scripted(probe_error=Unavailable("not yet"))
    rig = Rig(database, connector)
    async with living(rig):
        await wait_until(lambda: connector.probes >= 3, what="three probes")
        assert await rig.state() == "verifying"
        connector.probe_error = None
        await reaches(rig, "active")


async def test_a_probe_that_never_answers_ends(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr(lifecycle, "VERIFY_CAP_SECONDS", 0.01)
    monkeypatch.setattr(lifecycle, "POLL_SECONDS", 0.02)

    class Hung(Scripted):
        async def probe(self) -> Health:
            self.probes += 1
            if self.probes < 3:
                await asyncio.Event().wait()
            return Health()

    rig = Rig(database, Hung())
    async with living(rig):
        await reaches(rig, "active")


async def test_a_blocked_connection_is_probed_once_an_hour(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "POLL_SECONDS", 0.01)
    polls = 0
    asked = connections.states

    async def counted(database: Database, names: Sequence[str]) -> dict[str, State]:
        nonlocal polls
        polls += 1
        return await asked(database, names)

    monkeypatch.setattr(connections, "states", counted)
    connector = Scripted(probe_error=PermissionDenied("no"))
    rig = Rig(database, connector)
    async with living(rig):
        await reaches(rig, "blocked")
        after = polls
        await wait_until(lambda: polls >= after + 20, what="twenty polls")
        assert connector.probes == 1
    monkeypatch.setattr(lifecycle, "BLOCKED_PROBE", timedelta(0))
    async with living(rig):
        await wait_until(lambda: connector.probes >= 3, what="probes go on")
        connector.probe_error = None
        await reaches(rig, "active")


async def test_one_replica_probes_at_a_time(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "POLL_SECONDS", 0.01)
    connector = Scripted()
    rig = Rig(database, connector)
    assert await leases.claim(database, f"probe/{CONNECTION}", "replica-b", 60) is not None
    polled = 0
    claim = leases.claim

    async def counted(*arguments: object) -> int | None:
        nonlocal polled
        polled += 1
        return await claim(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(leases, "claim", counted)
    async with living(rig):
        await wait_until(lambda: polled >= 5, what="five attempts")
        assert connector.probes == 0
        await leases.release(database, f"probe/{CONNECTION}", "replica-b")
        await reaches(rig, "active")
    assert connector.probes == 1


async def test_a_connection_never_changes_hands(database: Database) -> None:
    rig = Rig(database)
    async with living(rig):
        await reaches(rig, "active")
    with pytest.raises(ConfigError, match="belongs to customer 'acme'"):
        await rig.lifecycle.declare({rig.name: (replace(rig.declaration, customer="other"), rig.link)})
    with pytest.raises(ConfigError, match="for good"):
        await rig.lifecycle.declare({rig.name: (replace(rig.declaration, system="another"), rig.link)})


async def test_changed_credentials_are_verified_before_the_next_call(database: Database) -> None:
    connector = Scripted()
    rig = Rig(database, connector)
    await rig.activate()
    await rig.lifecycle.declare({rig.name: (replace(rig.declaration, digest="2"), rig.link)})
    assert await rig.state() == "verifying"
    with pytest.raises(LookupError):
        await rig.claim()


async def test_changed_rules_reach_the_meters_without_a_probe(database: Database) -> None:
    connector = Scripted()
    rig = Rig(database, connector)
    await rig.activate()
    await rig.store(("d1", BASE, 1.0))
    rig.rules = (replace(ALL, meter="new-{device}"),)
    await rig.lifecycle.declare({rig.name: (rig.declaration, rig.link)})
    assert await rig.state() == "active" and connector.probes == 0
    assert [row["meter"] for row in await rig.rows("select meter from meter_mapping")] == ["new-d1"]


async def test_a_trigger_that_means_nothing_moves_nothing(database: Database) -> None:
    rig = await Rig(database).activate()
    before = await rig.rows("select version, since from connection")
    await rig.lifecycle.report(rig.name, Trigger.CALL_SUCCEEDED, None)
    assert await rig.rows("select version, since from connection") == before
    await rig.lifecycle.report(rig.name, Trigger.TRANSIENT_FAILURES, "503")
    assert await rig.state() == "degraded"
