"""Replicas that raise alerts are killed at random, the system misbehaves, credentials are revoked: each alert
is at the system exactly once, is followed, and comes to its end.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from asyncio.subprocess import Process
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.servers import patient
from gateway.configuration import DeclaredConnection
from gateway.engine import Engine
from gateway.model.access import Caller
from gateway.model.alert_rule import Above, AlertRule
from gateway.model.errors import RequestRefused
from gateway.model.sample import Value, to_microseconds
from gateway.settings import ConnectionSettings, CredentialSettings
from gateway.store.pool import Database
from gateway.store.telemetry import TelemetryStore
from tests.fault.alert_child import engine
from tests.fault.alert_system import EventSystem
from tests.fixtures.alerting import SEEN
from tests.fixtures.judging import law

HOT = AlertRule(
    id="hot",
    device="*",
    metric="t",
    condition=Above(limit=90, clear=85),
    lasts=timedelta(seconds=5),
    kind="notification",
)
SECOND = timedelta(seconds=1)


@dataclass
class Campaign:
    database: Database
    dsn: str
    system: EventSystem
    rand: random.Random
    connections: int
    devices: int
    episodes: int
    replicas: int
    made: Engine
    logs: dict[tuple[str, str], dict[int, Value]] = field(default_factory=dict)
    children: list[Process] = field(default_factory=list)
    kills: int = 0
    revocations: int = 0
    started: int = 0
    left: list[dict[str, object]] = field(default_factory=list)

    async def prepare(self) -> None:
        await self.made.prepare()
        for name in self.names:
            wanted = ConnectionSettings(
                id=name,
                customer=name,
                system="scripted",
                credentials=CredentialSettings.model_validate({"type": "api_key", "api_key": f"{name}/0"}),
            )
            declared = DeclaredConnection(settings=wanted, rules=(), alerts=(HOT,))
            await self.made.service.create_declared(declared, Caller(name="test"), managed_by="file")

    @property
    def names(self) -> list[str]:
        return [f"c{number}" for number in range(self.connections)]

    async def spawn(self) -> None:
        self.started += 1
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.fault.alert_child",
            self.dsn,
            str(self.system.port),
            f"replica-{self.started}",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        self.children.append(child)
        assert child.stdout is not None
        assert await child.stdout.readline() == b"ready\n"

    async def begun(self) -> None:
        async with patient(60):
            while await self.count("select count(*) from alert_rule") < self.connections:
                await asyncio.sleep(0.1)

    async def publish(self) -> None:
        """Each device is hot so many times; what it sends comes in batches, some of it
        late and out of order.
        """
        start = datetime.now(UTC) + SECOND
        for name in self.names:
            writer = TelemetryStore(self.database, register_customers=True)
            rows: list[tuple[str, int, Value]] = []
            for number in range(self.devices):
                log = self.logs.setdefault((name, f"d{number}"), {})
                for episode in range(self.episodes):
                    for second, value in ((0, 95), (6, 97), (9, 88), (12, 60), (15, 91), (18, 70)):
                        at = to_microseconds(start + (episode * 30 + second) * SECOND)
                        log[at] = value
                        rows.append((f"d{number}", at, value))
            rows.sort(
                key=lambda row: (row[1] // 10_000_000 + self.rand.choice((0, 0, 0, 6)), self.rand.random())
            )
            for begin in range(0, len(rows), 150):
                part = [
                    ((name, device, at), {"t": value}, at) for device, at, value in rows[begin : begin + 150]
                ]
                await writer.write(part, [])

    async def disturb(self) -> None:
        """Kills a replica every moment, and starts another; now and then a credential is revoked."""
        while True:
            await asyncio.sleep(self.rand.random() * 1.5)
            child = self.rand.choice(self.children)
            child.kill()
            self.children.remove(child)
            await child.wait()
            self.kills += 1
            await self.spawn()
            if self.rand.random() < 0.3:
                name = self.rand.choice(self.names)
                self.system.revoked.add(f"{name}/{self.generation(name)}")

    def generation(self, name: str) -> int:
        return sum(key.rpartition("/")[0] == name for key in self.system.revoked)

    async def administer(self) -> None:
        """People: give new credentials where they are asked to, and work on what was raised."""
        while True:
            for row in await self.rows(
                "select connection_id from connection where state in ('reauthorization_required', 'pending')"
            ):
                name = row["connection_id"]
                given = {"type": "api_key", "api_key": f"{name}/{self.generation(name)}"}
                try:
                    await self.made.service.give_credentials(
                        name, CredentialSettings.model_validate(given), Caller(name="test")
                    )
                    self.revocations += 1
                except RequestRefused:
                    pass  # it is being verified
            for row in await self.rows(
                "select alert_id, connection_id, remote_id from alert "
                "where state in ('raised', 'acknowledged') and remote_id is not null limit 500"
            ):
                if self.rand.random() < 0.3:
                    async with self.database.connection() as connection:
                        await connection.execute(
                            SEEN,
                            row["connection_id"],
                            row["connection_id"],
                            row["remote_id"],
                            self.rand.choice(["open", "acknowledged", "closed"]),
                            False,
                            None,
                        )
            await asyncio.sleep(0.3)

    async def ended(self, seconds: float) -> None:
        expected = sum(len(law(HOT, log)) for log in self.logs.values())
        async with patient(seconds):
            while True:
                self.left = await self.rows("select state, why, noting, count(*) from alert group by 1, 2, 3")
                there = await self.count(
                    "select count(*) from alert where why is distinct from 'late_sample'"
                )
                open_ = await self.count(
                    "select count(*) from alert where state <> 'cleared' or due_at is not null"
                )
                if there == expected and not open_:
                    return
                await asyncio.sleep(0.3)

    async def rows(self, query: str) -> list[dict[str, object]]:
        async with self.database.connection() as connection:
            return [dict(row) for row in await connection.fetch(query)]

    async def count(self, query: str) -> int:
        async with self.database.connection() as connection:
            return int(await connection.fetchval(query))


async def campaign(
    database: Database,
    dsn: str,
    *,
    connections: int,
    devices: int,
    episodes: int,
    replicas: int,
    seconds: float,
    seed: int,
) -> Campaign:
    rand = random.Random(seed)
    async with EventSystem(rand=rand) as system:
        names = tuple(f"c{number}" for number in range(connections))
        made = Campaign(
            database=database,
            dsn=dsn,
            system=system,
            rand=rand,
            connections=connections,
            devices=devices,
            episodes=episodes,
            replicas=replicas,
            made=engine(database, system.port, "test", names),
        )
        await made.prepare()
        for _ in range(replicas):
            await made.spawn()
        await made.begun()
        tasks = [asyncio.create_task(made.disturb()), asyncio.create_task(made.administer())]
        try:
            await made.publish()
            waiting = asyncio.create_task(made.ended(seconds))
            await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
            await waiting
        except TimeoutError:
            states = await made.rows("select state, count(*) from connection group by 1")
            pytest.fail(f"not at its end after {seconds} s, {made.kills} kills: {made.left}, {states}")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for child in made.children:
                child.kill()
                await child.wait()
    return made


async def check(made: Campaign) -> None:
    """Everything that was promised."""
    doubled = {reference: count for reference, count in made.system.made.items() if count > 1}
    assert not doubled, f"{len(doubled)} of {len(made.system.made)} are at the system more than once"
    alerts = await made.rows("select * from alert")
    known = {str(alert["alert_id"]) for alert in alerts}
    assert made.system.made.keys() <= known, "the system has what nobody raised"
    for alert in alerts:
        reference = str(alert["alert_id"])
        if alert["remote_id"] is not None:
            assert made.system.ids[reference] == alert["remote_id"]
        elif alert["why"] != "late_sample":
            assert reference in made.system.refused and alert["failed_at"] is not None, alert
    for (name, device), log in made.logs.items():
        found = sorted(
            (to_microseconds(a["since"]), to_microseconds(a["opened_at"]), to_microseconds(a["well_at"]))  # type: ignore[arg-type]
            for a in alerts
            if (a["connection_id"], a["device_id"]) == (name, device) and a["why"] != "late_sample"
        )
        assert found == law(HOT, log), (name, device)
    raised = {str(alert["remote_id"]) for alert in alerts if alert["remote_id"] is not None}
    assert {remote for remote, _ in made.system.notes} == raised, "each end is noted at the system"
    told = Counter(
        str(row["type"]) for row in await made.rows("select type from event where type like 'alert.%'")
    )
    sent = sum(alert["remote_id"] is not None or alert["failed_at"] is not None for alert in alerts)
    assert told["alert.cleared"] >= sent
    assert told["alert.raised"] >= len(raised)
    if sum(made.system.misbehaved.values()) > 50:
        assert set(made.system.misbehaved) >= {"cut_late", "cut_after", "refuse", "slow"}


async def test_alerts_under_kills_are_raised_once_and_come_to_their_end(database: Database, dsn: str) -> None:
    made = await campaign(database, dsn, connections=3, devices=6, episodes=3, replicas=2, seconds=90, seed=7)
    await check(made)
    assert made.kills >= 2


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_ten_thousand_alerts_under_kills(database: Database, dsn: str) -> None:
    seed = int(os.environ.get("FIELDGATE_SEED", "1"))
    made = await campaign(
        database, dsn, connections=20, devices=50, episodes=10, replicas=3, seconds=3000, seed=seed
    )
    await check(made)
    print(
        f"\n{len(await made.rows('select from alert'))} alerts, {made.kills} kills, {made.revocations} new"
        f" credentials, misbehaved {dict(made.system.misbehaved)}"
    )
