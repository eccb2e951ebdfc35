"""From a telemetry sample to work at a system and back, by a real daemon: a real Tryton, the SAP services and
the MaintainX stand-in. The answer to the first call is lost and the daemon is killed, and the alert is there
once all the same; what people do with it there is seen, and it ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiomqtt
import orjson
import pytest

from benchmarks.daemon import Daemon
from benchmarks.mqtt import Publisher
from benchmarks.servers import Mosquitto, wait_until
from connectors.registry import SYSTEMS
from gateway.store.pool import Database
from tests.contract.inbound_harness import MaintainXInbound, S4hanaInbound, TrytonInbound
from tests.contract.sap_harness import USER, need_node
from tests.contract.test_inbound_raised import CREATES, METERS
from tests.fixtures.unreliable import Unreliable

NOTIFICATIONS = "/sap/opu/odata/sap/API_MAINTNOTIFICATION/MaintenanceNotification"


class TrytonSite(TrytonInbound):
    """Quality alerts, on an inspection with the reference."""

    below = ""

    @property
    def declared(self) -> dict[str, Any]:
        return {
            "settings": {"database": self.tryton.database},
            "credentials": {"type": "api_key", "api_key": self.tryton.key},
        }

    async def there(self, reference: str) -> list[str]:
        return await asyncio.to_thread(self._there, reference)

    def _there(self, reference: str) -> list[str]:
        rows = self.tryton.rpc(
            "model.quality.inspection.search_read",
            [["reference", "=", reference]],
            0,
            None,
            None,
            ["alerts"],
            {"company": 1},
        )
        assert len(rows) <= 1, "an inspection too many"
        return [str(alert) for row in rows for alert in row["alerts"]]

    async def work(self, number: str) -> None:
        await asyncio.to_thread(self.tryton.rpc, "model.quality.alert.process", [int(number)], {"company": 1})

    async def close(self, number: str) -> None:
        await asyncio.to_thread(self.tryton.rpc, "model.quality.alert.resolve", [int(number)], {"company": 1})

    async def notes(self, number: str) -> str | None:
        fields = ["description"]
        rows = await asyncio.to_thread(
            self.tryton.rpc, "model.quality.alert.read", [int(number)], fields, {"company": 1}
        )
        return str(rows[0]["description"])


class S4hanaSite(S4hanaInbound):
    """Maintenance notifications."""

    below = ""

    @property
    def declared(self) -> dict[str, Any]:
        return {
            "settings": {**self.settings, "time_zone": self.zone},
            "credentials": {"type": "basic", **USER},
        }

    async def there(self, reference: str) -> list[str]:
        return [
            str(row["MaintenanceNotification"])
            for row in self.rules.notifications
            if row["MaintNotifExtReferenceNumber"] == reference
        ]

    async def _phase(self, number: str, phase: str) -> None:
        stamp = f"/Date({int(time.time() * 1000)}+0000)/"
        await self._write(NOTIFICATIONS, number, {"LastChangeDateTime": stamp, "NotifProcessingPhase": phase})

    async def work(self, number: str) -> None:
        await self._phase(number, "3")

    async def close(self, number: str) -> None:
        await self._phase(number, "4")

    async def notes(self, number: str) -> str | None:
        return None


class MaintainXSite(MaintainXInbound):
    """Work orders."""

    below = "/v1"

    @property
    def declared(self) -> dict[str, Any]:
        return {"settings": {}, "credentials": {"type": "api_key", "api_key": self.key}}

    async def there(self, reference: str) -> list[str]:
        return [
            str(number)
            for number, order in self.cmms.workshop.orders.items()
            if f"Fieldgate reference: {reference}" in order.description
        ]

    async def work(self, number: str) -> None:
        self.cmms.workshop.change(int(number), {"status": "IN_PROGRESS"}, datetime.now(UTC))

    async def close(self, number: str) -> None:
        self.cmms.workshop.change(int(number), {"status": "DONE"}, datetime.now(UTC))

    async def notes(self, number: str) -> str | None:
        return "\n".join(content for _, content, _ in self.cmms.workshop.orders[int(number)].comments)


SITES = (TrytonSite, S4hanaSite, MaintainXSite)


def test_every_system_that_raises_is_here() -> None:
    assert {kind.system for kind in SITES} == {name for name, each in SYSTEMS.items() if each.manifest.raises}


def _each(kind: Any) -> object:
    """The real system each time, the stand-ins in the long run: they take two minutes."""
    marks = () if kind.system == "tryton" else (pytest.mark.soak,)
    return pytest.param(kind, id=kind.system, marks=marks)


@pytest.fixture(params=[_each(kind) for kind in SITES])
async def site(
    request: pytest.FixtureRequest, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Any]:
    if request.param is S4hanaSite:
        need_node(request)
    started = request.param()
    async with started.running(dsn, monkeypatch):
        yield started


@dataclass
class Told:
    """What a customer hears: each event's type with the alert's state, and the retained alert after each
    change.
    """

    events: list[tuple[str, str]] = field(default_factory=list)
    retained: list[str | None] = field(default_factory=list)

    @asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[None]:
        async with aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5) as client:
            await client.subscribe("fieldgate/v1/customers/acme/events/+", qos=1)
            await client.subscribe("fieldgate/v1/customers/acme/connections/+/alerts/+", qos=1)
            task = asyncio.create_task(self._hear(client))
            try:
                yield
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _hear(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            document = orjson.loads(message.payload) if message.payload else None  # type: ignore[arg-type]
            if "/events/alert." in message.topic.value:
                told = (str(message.topic).rpartition("/")[2], document["data"]["state"])
                if told not in self.events:
                    self.events.append(told)
            elif "/alerts/" in message.topic.value:
                self.retained.append(None if document is None else document["state"])


async def test_a_sample_becomes_work_once_and_its_end_is_seen(
    site: Any,
    tmp_path: Path,
    mosquitto: Mosquitto,
    dsn: str,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [(kind, stream)] = SYSTEMS[site.system].manifest.raises.items()
    device = "pump-7"
    rule = {"id": "hot", "device": "pump-*", "metric": "t", "above": 90, "clear_below": 85, "raise": kind}
    meter = {"device": device, "metric": "t", "meter": METERS[site.system], "every": "1d", "reduce": "max"}
    told = Told()
    async with Unreliable(site.address, path=CREATES[site.system]) as proxy, told.listening(mosquitto.port):
        declared = site.declared
        for name in ("api_key", "password"):
            if name in declared["credentials"]:
                monkeypatch.setenv("SITE_SECRET", declared["credentials"][name])
                declared["credentials"][name] = "${env:SITE_SECRET}"
        connection = {
            "id": "acme-1", "customer": "acme", "system": site.system, "meters": [meter], "alerts": [rule], **declared,
            "settings": {**declared["settings"], "base_url": f"{proxy.url}{site.below}"},
            "sync": {"pull": [stream], "pull_interval": "1s", "interval": "1s"},
        }  # fmt: skip
        daemon = Daemon(
            tmp_path,
            broker_url=mosquitto.url,
            dsn=dsn,
            connections=[connection],
            egress={"allow": ["127.0.0.0/8"]},
            sync={"lease": "2s", "unknown_wait": "1s", "backoff_base": "200ms", "backoff_cap": "1s"},
        )
        daemon.start()
        try:
            await daemon.ready(90)
            async with Publisher[None](mosquitto.port, "device") as publisher:
                await _is_active(database)
                proxy.faults.append("cut_after")
                await _measured(publisher, device, 95)
                number = await _seen(database, "raised")
                assert not proxy.faults, "the first answer was lost"
                reference = await _value(database, "select alert_id from alert")
                assert await site.there(reference) == [number]
                await daemon.kill()
                await _measured(publisher, device, 97)
                await site.work(number)
                daemon.start()
                await daemon.ready(90)
                await _seen(database, "acknowledged")
                await site.close(number)
                await _seen(database, "closed")
                await _measured(publisher, device, 60)
                await _seen(database, "cleared")

                async def is_over() -> bool:
                    return told.retained[-1:] == [None] and len(told.events) == 4

                await wait_until(is_over, what=f"the end is told: {told}", seconds=60)
                assert told.events == [
                    ("alert.raised", "raised"),
                    ("alert.acknowledged", "acknowledged"),
                    ("alert.acknowledged", "closed"),
                    ("alert.cleared", "cleared"),
                ]
                assert {"raised", "acknowledged", "closed"} <= set(told.retained)
                if await site.notes(number) is not None:
                    await _until(lambda: site.notes(number), lambda said: "over" in said, "the end is noted")
                assert await site.there(reference) == [number], "once"
                assert await _value(database, "select count(*) from alert") == 1
        finally:
            await daemon.kill()


async def _measured(publisher: Publisher[None], device: str, value: float) -> None:
    payload = orjson.dumps({"ts": time.time_ns() // 1_000_000, "metrics": {"t": value}})
    await publisher.publish(f"acme/devices/{device}/telemetry", payload, None)
    await publisher.flush()


async def _value(database: Database, query: str) -> Any:
    async with database.connection() as connection:
        return await connection.fetchval(query)


async def _is_active(database: Database) -> None:
    async def is_so() -> bool:
        begun = "select (select state = 'active' from connection) and exists (select from alert_rule)"
        return bool(await _value(database, begun))

    await wait_until(is_so, what="the connection is active and its rule in force", seconds=60)


async def _seen(database: Database, state: str) -> str:
    """Its number at the system, once the alert is so."""

    async def is_so() -> bool:
        return bool(await _value(database, "select state from alert") == state)

    await wait_until(is_so, what=f"the alert is {state}", seconds=90)
    return str(await _value(database, "select remote_id from alert"))


async def _until(ask: Callable[[], Any], holds: Callable[[Any], bool], what: str) -> None:
    async def is_so() -> bool:
        return holds(await ask())

    await wait_until(is_so, what=what, seconds=60)
