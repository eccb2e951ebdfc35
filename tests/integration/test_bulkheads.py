"""Nothing that one connection does, or that is stored of it, is felt by another, or ends the daemon."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from benchmarks.servers import wait_until
from gateway import metrics
from gateway.connections import candidates, health
from gateway.engine import Engine
from gateway.events.backlog import Backlog
from gateway.events.documents import status_document
from gateway.model.sample import to_microseconds
from gateway.store.pool import Database
from gateway.store.telemetry import TelemetryStore
from gateway.store.views import Views
from tests.fixtures.connection_rig import CALLER, CreditsSettings, World, settings, wanted
from tests.fixtures.hostile_connector import ASKED, DONE, ODD, RAISED, Hostile, HostileSystem, Method
from tests.fixtures.scripted import Scripted, ScriptedSystem
from tests.fixtures.statuses import every_status

LAG_SECONDS = 15.0
"""Of the healthy one beside some ninety hostile ones, on a shared machine; alone it is far below one."""


class Beside:
    """A healthy connection, and others beside it that are not."""

    def __init__(self, database: Database, hostile: Mapping[str, Hostile], monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(candidates, "PROBE_SECONDS", 1.0)
        monkeypatch.setattr(health, "PROBE_SECONDS", 1.0)
        self.database, self.hostile, self.well = database, hostile, Scripted()
        self.settings = settings(
            sync={"push_timeout": timedelta(seconds=1), "probe_interval": timedelta(seconds=1)},
            credits=CreditsSettings(capacity=10_000),
        )
        slower = {"backoff_base": timedelta(milliseconds=200), "backoff_cap": timedelta(seconds=2)}
        self.settings = self.settings.model_copy(
            update={"sync": self.settings.sync.model_copy(update=slower)}
        )
        systems = {name: HostileSystem(each) for name, each in hostile.items()}
        self.engine = Engine(
            self.settings,
            database,
            owner="replica-a",
            systems={"well": ScriptedSystem(self.well), **systems},
        )
        self.world = World(database, self.well, self.settings)
        self.rounds = 0

    @asynccontextmanager
    async def living(self) -> AsyncIterator[None]:
        """All loops of the engine run, and still do at the end."""
        await self.engine.prepare()
        sync = {"interval": "200ms", "initial_days": 0, "lateness": "0s"}
        meters = [{"device": "*", "metric": "t", "meter": "{device}", "reduce": "each"}]
        await self.engine.service.create(
            wanted("well", system="well", customer="acme", sync=sync, meters=meters), CALLER
        )
        for name in self.hostile:
            await self.engine.service.create(
                wanted(name, system=name, customer="globex", key="secret-key-1", sync=sync, meters=meters),
                CALLER,
            )
        loops = [asyncio.create_task(loop, name=name) for name, loop in self.engine.loops().items()]
        try:
            await self.world.reaches("active", "well")
            yield
            assert not [loop.get_name() for loop in loops if loop.done()]
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self.engine.links.close()

    async def telemetry(self) -> None:
        """A sample for each customer; the healthy connection delivers its own in time."""
        self.rounds += 1
        at = to_microseconds(datetime.now(UTC) - timedelta(minutes=1) + timedelta(microseconds=self.rounds))
        writer = TelemetryStore(self.database, register_customers=True)
        rows = [((customer, "d1", at), {"t": self.rounds}, at) for customer in ("acme", "globex")]
        await writer.write(rows, [])
        await wait_until(
            lambda: len(self.well.taken) >= self.rounds, what="the healthy one delivers", seconds=LAG_SECONDS
        )

    async def troubles(self) -> dict[str, list[str]]:
        return {
            found.connection: [trouble.detail for trouble in found.troubles]
            for found in await every_status(self.database)
        }

    async def say(self, names: set[str], words: str) -> None:
        """Until each of them says so in its status document, the healthy one delivering all the time."""

        async def said() -> bool:
            await self.telemetry()
            told = await self.troubles()
            missing.clear()
            for name in names:
                if not any(words in detail for detail in told[name]):
                    missing[name] = told[name]
            return not missing

        missing: dict[str, list[str]] = {}
        try:
            await wait_until(said, what=f"all say {words!r}", seconds=60)
        except TimeoutError:
            raise AssertionError(f"silent, and what they say instead: {missing}") from None


def every(kinds: Mapping[str, Callable[[], Any]], methods: tuple[Method, ...]) -> dict[str, Hostile]:
    return {
        f"{method}-{name}".replace(" ", "."): Hostile(method, mischief)
        for name, mischief in kinds.items()
        for method in methods
    }


async def test_whatever_a_connector_raises_is_its_connections(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    loud = every(RAISED, ("build", "capabilities", "probe", "push", "find"))
    counted = internal_errors()
    beside = Beside(database, {**loud, **every(RAISED, ("close",))}, monkeypatch)
    with capture_logs() as logs:
        async with beside.living():
            await beside.say(set(loud), "internal error, reference ")
            told = await beside.troubles()
    logged = {line["reference"] for line in logs if line["event"] == "gateway.fault_contained"}
    for name in loud:
        for detail in told[name]:
            assert detail.partition("reference ")[2].partition(";")[0] in logged, (name, detail)
            assert "Traceback" not in detail and "secret" not in detail
    assert told["well"] == []
    assert internal_errors() - counted >= len(loud)
    written = json.dumps(logs, default=repr)
    assert "secret-key-1" not in written
    assert await beside.world.events("well") == ["connection.created", "connection.activated"]


async def test_whatever_a_connector_does_is_its_connections(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    loud = every(DONE, ("probe", "push", "find")) | every(
        {"none": DONE["none"], "text": DONE["text"]}, ("capabilities",)
    )
    loud = {
        name: each
        for name, each in loud.items()
        if name not in {"find-stays", "push-stays", "probe-stays"}  # they end as no answer, see below
    }
    slow = every({"stays": DONE["stays"]}, ("probe", "push", "find", "close"))
    odd = every(ODD, ("probe", "push"))
    beside = Beside(database, {**loud, **slow, **odd}, monkeypatch)
    async with beside.living():
        await beside.say(set(loud) - {"probe-objects"}, "internal error, reference ")
        await beside.say({"probe-stays"}, "internal error, reference ")
        assert (await beside.troubles())["well"] == []


async def test_a_wait_that_nobody_waits_is_cut_and_said(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = every(ASKED, ("probe", "push"))
    beside = Beside(database, hostile, monkeypatch)
    async with beside.living():
        await beside.say(set(hostile), "the system asked for ")
        told = await beside.troubles()
        for name in hostile:
            assert "; trying again at 20" in told[name][0]
        for found in await every_status(database):
            status_document(found, now=datetime.now(UTC)).payload()
    latest = datetime.now(UTC) + timedelta(hours=6, minutes=1)
    for row in await beside.world.rows("select next_run_at from stream"):
        assert row["next_run_at"] < latest
    probes = await beside.world.rows("select probe_at from connection where probe_at > $1", latest)
    assert probes == []


GARBAGE = {
    "settings-list": ("settings", "[1, 2]"),
    "settings-deep": ("settings", "[" * 3000 + "]" * 3000),
    "settings-number": ("settings", f'{{"a": {"9" * 5000}}}'),
    "sync-text": ("sync", '"never"'),
    "sync-interval": ("sync", '{"interval": "soon"}'),
    "sync-days": ("sync", '{"initial_days": 1e300}'),
    "meters-object": ("meters", '{"a": 1}'),
    "meters-texts": ("meters", '["a", 7, null]'),
    "meters-every": ("meters", '[{"device": "*", "metric": "t", "meter": "x", "every": -1e300}]'),
}


async def test_a_row_that_cannot_be_read_costs_only_itself(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = Beside(database, {name: Hostile("probe", dict, armed=False) for name in GARBAGE}, monkeypatch)
    async with beside.living():
        for name in GARBAGE:
            await beside.world.reaches("active", name)
        kept = {
            row["connection_id"]: (row["settings"], row["sync"], row["meters"])
            for row in await beside.world.rows("select * from connection")
        }
        for name, (column, text) in GARBAGE.items():
            await beside.world.execute(
                f"update connection set {column} = ($2::text)::jsonb, configuration = configuration + 1 where"
                " connection_id = $1",
                name,
                text,
            )
        refused = set(GARBAGE) - {"settings-list", "settings-deep", "settings-number"}  # the script takes any
        await beside.say(refused, "internal error, reference ")
        await Backlog(database).refresh()
        shown = await Views(database).connections(limit=100)
        assert {found.connection for found in shown} == {"well", *GARBAGE}
        for name in refused:
            await beside.world.execute(
                "update connection set settings = $2, sync = $3, meters = $4, configuration = configuration +"
                " 1 where connection_id = $1",
                name,
                *kept[name],
            )

        async def over() -> bool:
            return not any((await beside.troubles()).values())

        await wait_until(over, what="what is mended goes on", seconds=60)


def internal_errors() -> float:
    return sum(
        sample.value
        for family in metrics.REGISTRY.collect()
        for sample in family.samples
        if sample.name == "fieldgate_internal_errors_total"
    )
