"""The third customer of the campaign: a system whose records change while they are read and whose tokens end,
a CMMS in which what pumps show becomes work orders, people at both, and consumers who follow what is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks.servers import wait_until
from connectors.maintainx.records import reference_of
from gateway.demo.cmms import DemoCmms
from gateway.demo.work_orders import WorkOrder, Workshop
from tests.fixtures.unreliable import Unreliable
from tests.soak.followed import Followed, Journal, Seen, judge_followed
from tests.soak.load import Fleet
from tests.soak.oracle import Device
from tests.soak.raised import Alert, Limit, Order, episodes, judge_raised
from tests.soak.shape import SECOND, WORKPLACE
from tests.soak.source import Source
from tests.soak.stage import AWAY, Stage, stamp

CUSTOMER, PLANT, SHOP = WORKPLACE, f"{WORKPLACE}-plant", f"{WORKPLACE}-shop"
PUMPS = ("pump-0", "pump-1", "pump-2")
LIMIT = Limit(above=90, clear_below=85, lasts=SECOND, hold_off=2 * SECOND)
RULE = {"id": "hot", "device": "pump-*", "metric": "heat", "above": 90, "clear_below": 85, "for": "1s",
        "hold_off": "2s", "raise": "work_order"}  # fmt: skip
SYNC = {"interval": "1s", "pull_interval": "1s", "initial_days": 3, "reconcile": "1m"}
HOT, BETWEEN, COOL = (91.0, 99.0), (85.0, 90.0), (55.0, 84.0)


class Journaled(Workshop):
    """Writes down each state of its work orders."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def put(self, order: WorkOrder) -> None:
        super().put(order)
        self._note(order)

    def change(self, number: int, body: object, now: datetime) -> WorkOrder | None:
        order = super().change(number, body, now)
        if order is not None:
            self._note(order)
        return order

    def _note(self, order: WorkOrder) -> None:
        document = json.loads(json.dumps(order.document()))
        self._journal.note((SHOP, "work_orders", str(order.id)), document)


@dataclass
class Workplace:
    """What is there beside the links, and what its consumers have seen."""

    stage: Stage
    fleet: Fleet
    chance: random.Random
    journal: Journal
    source: Source
    cmms: DemoCmms
    proxy: Unreliable
    """Before the CMMS."""
    followed: Seen = field(default_factory=Seen)
    """By `/v1/records`."""
    heard: Seen = field(default_factory=Seen)
    """Over MQTT."""
    troubles: list[str] = field(default_factory=list)
    """What may not happen on the way."""
    diary: list[str] = field(default_factory=list)
    revoked_at: dict[str, datetime] = field(default_factory=dict)
    given_at: dict[str, datetime] = field(default_factory=dict)
    """When credentials of a connection were revoked, and when others were taken for it."""
    is_listening: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the broker keeps a session for who listens."""
    is_still: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while nobody changes anything at the plant."""
    _keys: count[int] = field(default_factory=count)
    _ending: asyncio.Event = field(default_factory=asyncio.Event)

    # people

    async def work(self) -> None:
        """People at both systems, until the end is near: then nobody deletes, for that takes two looks."""
        began = time.monotonic()
        while not self._ending.is_set():
            is_early = time.monotonic() - began < self.stage.shape.seconds / 2
            if not self.is_still.is_set():
                self.source.work(self.chance.choice((0, 1, 1, 3, 20)), deletes=is_early)
            self._attend(self.chance.random() * 0.5)
            await asyncio.sleep(self.chance.uniform(0.1, 1.0))

    def _attend(self, share: float) -> None:
        """Somebody goes on with a share of the work orders, or writes one."""
        shop, now = self.cmms.workshop, datetime.now(UTC)
        for order in list(shop.orders.values()):
            if order.status != "DONE" and self.chance.random() < share:
                status = "DONE" if order.status == "IN_PROGRESS" or share >= 1 else "IN_PROGRESS"
                shop.change(order.id, {"status": status}, now)
        if self.chance.random() < 0.1 and share < 1:
            shop.create({"title": f"Seen at {time.time_ns()}"}, now)

    def revoke(self, name: str) -> None:
        """What the gateway has of the plant or the shop is of no more use."""
        self.revoked_at[name] = datetime.now(UTC)
        if name == PLANT:
            self.source.grants.revoke()
        else:
            self.cmms.switches.revoke_key = True

    def is_revoked(self, name: str) -> bool:
        """Until a person has given something else."""
        return self.source.grants.is_revoked if name == PLANT else self.cmms.switches.revoke_key

    async def administer(self) -> None:
        """Gives new credentials where somebody is asked to."""
        while True:
            await asyncio.sleep(self.chance.uniform(0.3, 0.9))
            with contextlib.suppress(*AWAY):
                rows = await self.stage.fetch(
                    """select connection_id, since, reason from connection
                    where state = 'reauthorization_required'"""
                )
                for row in rows:
                    self._asked(row["connection_id"], row["since"], row["reason"])
                    await self._reauthorize(row["connection_id"])

    def _asked(self, name: str, since: datetime, reason: str) -> None:
        """A person may be asked only if something was revoked after credentials had been given."""
        given = self.given_at.get(name, datetime.min.replace(tzinfo=UTC))
        if since > given and self.revoked_at.get(name, given) <= given:
            self.troubles.append(
                f"{since:%H:%M:%S.%f} {name} asks a person, and nothing was revoked: {reason}"
            )
            self.given_at[name] = since  # told once

    async def _reauthorize(self, name: str) -> None:
        if name == PLANT:
            given = self.source.credentials
        else:
            if self.is_revoked(SHOP):
                self.cmms.api_key = f"key-{next(self._keys)}"
                self.cmms.switches.revoke_key = False
            given = {"type": "api_key", "api_key": self.cmms.api_key}
        status, document = await self.stage.ask(
            "PATCH",
            f"/v1/connections/{name}",
            {"credentials": given},
            of=self.chance.choice(self.stage.replicas),
        )
        if status in range(200, 300):
            self.given_at[name] = datetime.now(UTC)
        self.diary.append(
            f"{stamp()} new credentials for {name}: {status} {'' if status < 300 else document}"
        )

    # pumps

    async def pump(self) -> None:
        """What pumps show: hot for a while and cool for a while; some of it late, some corrected."""
        moods = dict.fromkeys(PUMPS, COOL)
        recent: dict[str, list[int]] = {pump: [] for pump in PUMPS}
        while not self._ending.is_set():
            await self.fleet.resumed.wait()
            for pump in PUMPS:
                if self.chance.random() < 0.12:
                    moods[pump] = self.chance.choice((HOT, HOT, BETWEEN, COOL))
                place, at = self.chance.random(), time.time_ns() // SECOND * 1000
                if place < 0.03:
                    at -= self.chance.randrange(SECOND // 2, 8 * SECOND)
                elif place < 0.05 and recent[pump]:
                    at = self.chance.choice(recent[pump][-30:])
                recent[pump].append(at)
                await self._show(pump, at, self.chance.uniform(*moods[pump]))
            await asyncio.sleep(self.chance.uniform(0.2, 0.6))

    async def _show(self, pump: str, at: int, value: float) -> None:
        await self.fleet.say((CUSTOMER, pump), at, {"heat": round(value * 8) / 8})

    async def calm(self) -> None:
        """The end: nothing fails, every pump is cool, nobody changes anything."""
        self._ending.set()
        self.source.mood, self.source.calm, self.source.ahead = "well", True, timedelta(0)
        self.cmms.switches.slow_seconds, self.proxy.skip = 0.0, 0
        self.proxy.faults.clear()
        for pump in PUMPS:
            await self._show(pump, time.time_ns() // SECOND * 1000, 60.0)
        await self.fleet.flush()

    # consumers

    async def follow(self) -> None:
        """Goes on from `next` for ever, at whichever replica answers."""
        cursor = ""
        while True:
            more = f"&cursor={cursor}" if cursor else ""
            status, page = await self.stage.ask("GET", f"/v1/records?customer={CUSTOMER}&limit=200{more}")
            if status == 200:
                for item in page["items"]:
                    self.followed.note(item)
                cursor = page["next"]
                if page["has_more"]:
                    continue
            elif status and status < 500 and status != 429:
                self.troubles.append(f"{stamp()} /v1/records answers {status}: {page!r}")
            await asyncio.sleep(0.2)

    async def listen(self) -> None:
        """A session that the broker keeps."""
        kept = Properties(PacketTypes.CONNECT)
        kept.SessionExpiryInterval = 3600
        while True:
            with contextlib.suppress(aiomqtt.MqttError):
                async with aiomqtt.Client(
                    "127.0.0.1",
                    self.stage.broker.port,
                    identifier="consumer",
                    protocol=aiomqtt.ProtocolVersion.V5,
                    clean_start=False,
                    properties=kept,
                ) as client:
                    await client.subscribe(
                        f"fieldgate/v1/customers/{CUSTOMER}/connections/+/records/#", qos=1
                    )
                    self.is_listening.set()
                    async for message in client.messages:
                        self.heard.note(json.loads(bytes(message.payload)))  # type: ignore[arg-type]
            await asyncio.sleep(0.2)

    # the end

    @property
    def logs(self) -> dict[str, dict[int, float]]:
        """What was acknowledged of each pump."""
        devices: dict[Device, dict[int, dict[str, Any]]] = self.fleet.ledger.samples  # type: ignore[assignment]
        return {
            pump: {at: float(said["heat"]) for at, said in devices.get((CUSTOMER, pump), {}).items()}
            for pump in PUMPS
        }

    def is_read(self) -> bool:
        """Whether who follows has seen every order of the plant as it is."""
        return all(
            self.followed.holds(thing) == states[-1]
            for thing, states in self.journal.states.items()
            if thing[:2] == (PLANT, "orders")
        )

    async def alerts(self) -> list[Alert]:
        """As the gateway has them."""
        rows = await self.stage.fetch(
            """select *, (extract(epoch from since) * 1000000)::bigint as a, (extract(epoch from opened_at) * 1000000)::bigint as b,
            (extract(epoch from well_at) * 1000000)::bigint as c from alert"""
        )
        return [
            Alert(
                reference=row["alert_id"],
                device=row["device_id"],
                episode=(row["a"], row["b"], row["c"]),
                state=row["state"] if row["due_at"] is None else f"{row['state']}, and not done",
                is_withdrawn=row["why"] == "late_sample",
                order=None if row["remote_id"] is None else int(row["remote_id"]),
            )
            for row in rows
        ]

    @property
    def orders(self) -> list[Order]:
        """What was raised, as the CMMS has it."""
        return [
            Order(number=order.id, reference=reference, notes=len(order.comments))
            for order in self.cmms.workshop.orders.values()
            if (reference := reference_of(order.description)) is not None
        ]

    async def wrong(self) -> tuple[Followed, Followed, list[str]]:
        """Of who follows, of who listens, and of alerts."""
        raised = judge_raised(LIMIT, self.logs, await self.alerts(), self.orders)
        return (
            judge_followed(self.journal, self.followed, once=True),
            judge_followed(self.journal, self.heard, once=False),
            raised,
        )

    async def settle(self, *, seconds: float, is_heard: bool) -> None:
        """Waits until nothing more is missed, or for so long. `is_heard`: over MQTT too."""

        async def is_quiet() -> bool:
            self._attend(1.0)
            with contextlib.suppress(*AWAY):
                followed, heard, raised = await self.wrong()
                return not (followed.missed or raised or (is_heard and heard.missed))
            return False

        with contextlib.suppress(TimeoutError):
            await wait_until(is_quiet, what="records and alerts are whole", seconds=seconds, every=0.5)

    async def figures(self) -> dict[str, int]:
        """What there was, for a report."""
        shown = await self.alerts()
        states = sum(map(len, self.journal.states.values()))
        return {
            "changes": states,
            "seen by cursor": judge_followed(self.journal, self.followed, once=True).changes,
            "heard over MQTT": judge_followed(self.journal, self.heard, once=False).changes,
            "episodes": sum(len(episodes(LIMIT, log)) for log in self.logs.values()),
            "alerts": len(shown),
            "withdrawn": sum(alert.is_withdrawn for alert in shown),
            "work orders": len(self.orders),
            "tokens": self.source.grants.issued,
            "answers with tokens lost": self.source.grants.repeats,
            "credentials given": len(self.diary),
        }


@asynccontextmanager
async def at_work(stage: Stage, fleet: Fleet) -> AsyncIterator[Workplace]:
    """Both connections made by the API and active, the rule in force; people, pumps and consumers at it."""
    chance, journal = random.Random(stage.shape.seed * 6007 + 5), Journal()
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(Source(PLANT, journal, seed=chance.randrange(1 << 30)))
        cmms = DemoCmms(api_key="key")
        cmms.workshop = Journaled(journal)
        cmms.switches.rate_limit = 1_000_000
        await stack.enter_async_context(cmms)
        proxy = await stack.enter_async_context(Unreliable(cmms.url.removesuffix("/v1"), path=b"/workorders"))
        made = Workplace(stage, fleet, chance, journal, source, cmms, proxy)
        tasks = [asyncio.create_task(made.listen())]
        try:
            # what is told before somebody listens is told to nobody
            await wait_until(made.is_listening.is_set, what="somebody listens", seconds=60)
            await _connect(made)
            tasks += [
                asyncio.create_task(each)
                for each in (made.follow(), made.work(), made.administer(), made.pump())
            ]
            yield made
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            for end in ends:
                if isinstance(end, Exception):
                    raise end


async def _connect(made: Workplace) -> None:
    plant = {
        "id": PLANT, "customer": CUSTOMER, "system": "http_json", "settings": made.source.settings,
        "credentials": made.source.credentials, "sync": {**SYNC, "pull": ["orders", "sites"]}, "meters": [],
    }  # fmt: skip
    shop = {
        "id": SHOP, "customer": CUSTOMER, "system": "maintainx", "settings": {"base_url": f"{made.proxy.url}/v1"},
        "credentials": {"type": "api_key", "api_key": made.cmms.api_key},
        "sync": {**SYNC, "pull": ["work_orders"]}, "meters": [], "alerts": [RULE],
    }  # fmt: skip
    for wanted in (plant, shop):
        status = await made.stage.insist("/v1/connections", wanted)
        if status not in (201, 409):  # 409: it was made before, and the answer came too late
            raise RuntimeError(f"{wanted['id']} could not be made: {status}")

    async def is_so() -> bool:
        rows = await made.stage.fetch(
            "select (select count(*) = 2 from connection where customer_id = $1 and state = 'active')"
            " and exists (select from alert_rule)",
            CUSTOMER,
        )
        return bool(rows[0][0])

    await wait_until(is_so, what="both connections are active and the rule is in force", seconds=60)
