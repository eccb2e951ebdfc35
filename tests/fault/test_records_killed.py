"""Two daemons read a system's work orders and raise alerts there, and are killed in the midst of it, answers
are lost: at quiet the records equal the system, a consumer that only followed `next` has every last state, and
each alert is at the system once.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.daemon import Daemon
from benchmarks.mqtt import Publisher
from benchmarks.servers import PATIENCE, wait_until
from connectors.maintainx.records import reference_of
from gateway.demo.cmms import DemoCmms
from gateway.demo.work_orders import WorkOrder
from gateway.model.access import Role
from gateway.store import access
from gateway.store.pool import Database
from tests.fault.rig import Rig, size, started
from tests.fixtures.unreliable import Unreliable

ORDERS = 900
PUMPS = [f"pump-{number}" for number in range(6)]
RULE = {"id": "hot", "device": "pump-*", "metric": "t", "above": 90, "clear_below": 85, "raise": "work_order"}


@dataclass
class Floor:
    """The workshop's side: people who change work orders, and pumps that are hot or not."""

    cmms: DemoCmms
    chance: random.Random
    deletes: bool

    def begin(self) -> None:
        """Orders of a month."""
        now = datetime.now(UTC)
        for number in range(1, ORDERS + 1):
            at = now - timedelta(minutes=40 * (ORDERS - number) + 1)
            self.cmms.workshop.put(
                WorkOrder(id=number, title=f"Order {number}", created_at=at, updated_at=at)
            )

    def work(self, changes: int) -> None:
        """People change what there is, delete some, and write new ones."""
        shop, now = self.cmms.workshop, datetime.now(UTC)
        for _ in range(changes):
            number = self.chance.randrange(1, ORDERS + 1)
            if number not in shop.orders:
                continue
            if self.deletes and self.chance.random() < 0.03:
                shop.remove(number)
                continue
            status = self.chance.choice(("OPEN", "IN_PROGRESS", "DONE", "ON_HOLD"))
            shop.change(number, {"status": status, "title": f"At {time.time_ns()}"}, now)
        shop.create({"title": f"Seen at {time.time_ns()}"}, now)

    def close(self) -> None:
        """They are done with what was raised."""
        for order in list(self.cmms.workshop.orders.values()):
            if reference_of(order.description) is not None and order.status != "DONE":
                self.cmms.workshop.change(order.id, {"status": "DONE"}, datetime.now(UTC))

    def raised(self) -> list[str]:
        """References of what was raised here, one for each work order."""
        found = (reference_of(order.description) for order in self.cmms.workshop.orders.values())
        return [reference for reference in found if reference is not None]

    def document(self, order: WorkOrder) -> dict[str, object]:
        return json.loads(json.dumps(order.document()))  # type: ignore[no-any-return]


@dataclass
class Follower:
    """A consumer that only goes on from `next`, at whichever replica answers."""

    daemons: list[Daemon]
    token: str
    cursor: str | None = None
    holds: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)

    async def follow(self) -> None:
        """Until cancelled."""
        async with httpx.AsyncClient(trust_env=False, timeout=10 * PATIENCE) as client:
            while True:
                if not await self.step(client):
                    await asyncio.sleep(0.1)

    async def step(self, client: httpx.AsyncClient) -> bool:
        """One page; whether there is more."""
        for daemon in self.daemons:
            query = {
                "customer": "acme",
                "limit": "100",
                **({} if self.cursor is None else {"cursor": self.cursor}),
            }
            with suppress(httpx.HTTPError):
                answer = await client.get(
                    f"http://127.0.0.1:{daemon.port}/v1/records",
                    params=query,
                    headers={"Authorization": f"Bearer {self.token}"},
                )
                if answer.status_code != 200:
                    continue
                page = answer.json()
                for item in page["items"]:
                    key = item["key"]
                    assert item["version"] >= self.versions.get(key, 0), "a state that was passed came back"
                    self.versions[key] = item["version"]
                    self.holds[key] = None if item["change"] == "deleted" else item["body"]
                self.cursor = page["next"]
                return bool(page["has_more"])
        return False


@asynccontextmanager
async def following(follower: Follower) -> AsyncIterator[None]:
    task = asyncio.create_task(follower.follow())
    try:
        yield
    finally:
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        assert isinstance(outcome, asyncio.CancelledError), outcome


async def measured(publisher: Publisher[None], pump: str, value: float) -> None:
    payload = json.dumps({"ts": time.time_ns() // 1_000_000, "metrics": {"t": value}}).encode()
    await publisher.publish(f"acme/devices/{pump}/telemetry", payload, None)


async def survives(rig: Rig, *, kills: int, seed: int, deletes: bool = False) -> None:
    chance = random.Random(seed)
    async with DemoCmms(meters=[f"{pump} t" for pump in PUMPS]) as cmms:
        cmms.switches.rate_limit = 100_000
        cmms.switches.slow_seconds = 0.01
        floor = Floor(cmms, chance, deletes)
        floor.begin()
        async with Unreliable(cmms.url.removesuffix("/v1"), path=b"/workorders") as proxy:
            await lived(rig, proxy, floor, kills=kills)


async def lived(rig: Rig, proxy: Unreliable, floor: Floor, *, kills: int) -> None:
    os.environ["CMMS_KEY"] = floor.cmms.api_key
    connection = {
        "id": "acme-1",
        "customer": "acme",
        "system": "maintainx",
        "settings": {"base_url": f"{proxy.url}/v1"},
        "credentials": {"type": "api_key", "api_key": "${env:CMMS_KEY}"},
        "meters": [
            {"device": "pump-*", "metric": "t", "meter": "{device} t", "every": "1d", "reduce": "max"}
        ],
        "alerts": [RULE],
        "sync": {"pull": ["work_orders"], "pull_interval": "1s", "interval": "1s", "reconcile": "1m"},
    }
    sync = {"unknown_wait": "1s", "backoff_base": "200ms", "backoff_cap": "1s"}
    daemons = [
        rig.daemon(name, connections=[connection], egress={"allow": ["127.0.0.0/8"]}, sync=sync)
        for name in ("one", "two")
    ]
    for daemon in daemons:
        daemon.start()
    for daemon in daemons:
        await daemon.ready(60)
    database = await Database.open(rig.dsn, size=2)
    try:
        token = (await access.create(database, name="c", role=Role.VIEWER)).token
        follower = Follower(daemons, token)
        async with following(follower), Publisher[None](rig.broker.port, "pumps") as publisher:
            await _is_judged(database)
            for number in range(kills):
                floor.work(25)
                proxy.faults.extend(
                    floor.chance.choices(("cut", "cut_after", "502_after", "late", "503"), k=2)
                )
                for pump in PUMPS:
                    await measured(publisher, pump, 95 if number % 2 == 0 else 60)
                if number % 2 == 0:
                    floor.close()
                # from before a page is asked for to long after: the instant is the point
                await asyncio.sleep(floor.chance.uniform(0.05, 1.5))
                daemon = daemons[number % 2]
                await daemon.kill()
                daemon.start()
            proxy.faults.clear()
            for pump in PUMPS:
                await measured(publisher, pump, 60)
            await publisher.flush()
            for daemon in daemons:
                await daemon.ready(60)
            await _at_quiet(rig, database, floor, follower)
        for daemon in daemons:
            assert await daemon.stop() == 0
    finally:
        await database.close()


async def _is_judged(database: Database) -> None:
    async def is_so() -> bool:
        async with database.connection() as connection:
            return bool(
                await connection.fetchval(
                    "select (select state = 'active' from connection) and exists (select from alert_rule)"
                )
            )

    await wait_until(is_so, what="the connection is active and its rule in force", seconds=60)


async def _at_quiet(rig: Rig, database: Database, floor: Floor, follower: Follower) -> None:
    async def is_told() -> bool:
        floor.close()
        async with database.connection() as connection:
            open_alerts = await connection.fetchval("select count(*) from alert where state <> 'cleared'")
        theirs = {str(order.id): floor.document(order) for order in floor.cmms.workshop.orders.values()}
        ours = {key: body for key, body in follower.holds.items() if body is not None}
        return open_alerts == 0 and ours == theirs

    try:
        await wait_until(
            is_told,
            what="everything is read, followed and over",
            seconds=300 if floor.deletes else 120,
            every=0.5,
        )
    except TimeoutError:
        rows = await rig.fetch(
            "select alert_id, device_id, state, remote_id, error from alert where state <> 'cleared'"
        )
        raise AssertionError([dict(row) for row in rows]) from None
    alerts = {
        row["alert_id"] for row in await rig.fetch("select alert_id from alert where remote_id is not null")
    }
    raised = floor.raised()
    assert sorted(raised) == sorted(set(raised)), "something was raised twice"
    assert alerts <= set(raised), "an alert says that it is there, and it is not"
    assert raised, "nothing was raised at all"


async def test_records_and_alerts_survive_kills(tmp_path: Path) -> None:
    async with started(tmp_path) as rig:
        await survives(rig, kills=6, seed=5)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_records_and_alerts_survive_many_kills(tmp_path: Path) -> None:
    async with started(tmp_path) as rig:
        await survives(rig, kills=size("RECORD_KILLS", 80), seed=size("SEED", 3), deletes=True)
