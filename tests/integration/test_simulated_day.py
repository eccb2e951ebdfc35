"""Days with a probe that is well and a push that is not, on a simulated clock: what decides is the operation
that failed, and nobody is called, counted or told more often than it takes.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from gateway.engine import Engine
from gateway.settings import ConnectionSettings, CredentialSettings, CreditsSettings
from gateway.store.credits import sync_capacity
from gateway.store.pool import Database
from tests.contract.faults import FaultServer, Reply, answer, cut
from tests.fixtures.connection_rig import CALLER, settings
from tests.fixtures.simulated import Simulated

HOUR, DAY = 3600.0, 86_400.0
DENIED = (401, 403, 404, 405, 406, 415, 418, 423)
DEVICES = ("d1", "d2", "d3")
WELL = answer("204 No Content")
TAKEN = answer("200 OK", b"{}")
LOGIN = answer("302 Found", headers="Location: /login\r\n", content_type="text/html")
CREDENTIALS: dict[str, dict[str, str]] = {
    "api_key": {"type": "api_key", "api_key": "a-key"},
    "basic": {"type": "basic", "username": "u", "password": "p"},
    "oauth": {
        "type": "oauth2_client_credentials",
        "client_id": "gateway",
        "client_secret": "a-secret",
    },
}


class System:
    """Answers every probe well, and pushes by the first part of their path as `pushes` says."""

    def __init__(self, **pushes: Reply) -> None:
        self.pushes = pushes
        self.tokens = 0
        self.seen: list[tuple[str, str]] = []
        """What was asked of which part: `probe` or `push`."""

    async def probed(self, writer: asyncio.StreamWriter) -> None:
        self.seen.append((self._part(), "probe"))
        await WELL(writer)

    async def pushed(self, writer: asyncio.StreamWriter) -> None:
        if self._part() == "token":
            self.tokens += 1
            token = {"access_token": f"token-{self.tokens}", "token_type": "Bearer", "expires_in": 999}
            await answer("200 OK", json.dumps(token).encode())(writer)
            return
        self.seen.append((self._part(), "push"))
        await self.pushes[self._part()](writer)

    def _part(self) -> str:
        return self.server.requests[-1].split(b" ", 2)[1].split(b"/")[1].decode()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        async with FaultServer(on_get=self.probed, on_other=self.pushed) as self.server:
            yield self.server.url

    def count(self, part: str, what: str = "push") -> int:
        return Counter(self.seen)[part, what]


def credentials(auth: str, url: str) -> CredentialSettings:
    values = dict(CREDENTIALS[auth])
    if auth == "oauth":
        values["token_url"] = f"{url}/token"
    return CredentialSettings.model_validate(values)


@asynccontextmanager
async def day(
    database: Database, url: str, names: dict[str, str], **changes: Any
) -> AsyncIterator[Simulated]:
    """Connections by name, each of them with its kind of credential, active and with
    two windows to deliver.
    """
    await sync_capacity(database, CreditsSettings())
    sync = {"probe_interval": timedelta(hours=1)}
    made = settings(sync=sync, credits=CreditsSettings(capacity=10_000))
    made = made.model_copy(
        update={
            "sync": made.sync.model_copy(
                update={"backoff_base": timedelta(seconds=5), "backoff_cap": timedelta(hours=1)}
            )
        }
    )
    async with Engine.open(made, database, owner="replica-a") as engine:
        await engine.prepare()
        world = Simulated(database, engine)
        await world.store(0, *DEVICES)
        for name, auth in names.items():
            wanted = ConnectionSettings.model_validate(
                {
                    "id": name,
                    "customer": "acme",
                    "system": "http_json",
                    "settings": {"base_url": f"{url}/{name}", "probe_path": "/me", **changes},
                    "credentials": credentials(auth, url),
                    "sync": {"interval": "15m", "initial_days": 1},
                    "meters": [{"device": "*", "metric": "t", "meter": "{device}"}],
                }
            )
            await engine.service.create(wanted, CALLER)
        yield world


async def live_a_day(world: Simulated) -> None:
    """With one more window to deliver each hour."""
    for hour in range(24):
        await world.store(1 + hour, *DEVICES)
        await world.live(HOUR)


async def delivered(world: Simulated, name: str) -> int:
    (row,) = await world.rows("select count(*) from delivery where connection_id = $1", name)
    return int(row["count"])


def of_state(events: list[str]) -> list[str]:
    return [event for event in events if event.startswith("connection.")][2:]  # created, activated


async def test_a_day_of_refused_pushes_costs_two_dozen_calls_and_one_event(database: Database) -> None:
    """Whatever the refusal and the credential: the connection waits, tries about once an hour, and is active
    as soon as a push is let in.
    """
    names = {f"{auth}-{status}": auth for status in DENIED for auth in CREDENTIALS}
    system = System(**{name: answer(f"{name.split('-')[1]} No") for name in names})
    async with system.serving() as url, day(database, url, names, deduplicates=True) as world:
        await live_a_day(world)
        refused = {name for name in names if name == "basic-401"}
        for name in names:
            state = "reauthorization_required" if name in refused else "blocked"
            assert await world.state(name) == state, name
            assert of_state(await world.events(name)) == [f"connection.{state}"], name
            calls = system.count(name) - (system.count(name) // 2 if name == "oauth-401" else 0)
            assert 2 <= calls <= 24, (name, calls)  # a refused token is renewed and the call made once more
            assert name in refused or calls >= 20, (name, calls)
            assert system.count(name, "probe") <= 30, name
        assert system.count("basic-401") == 2  # failed logons, whatever the operation
        assert await world.rows("select * from dead_letter") == []
        assert await world.rows("select * from incident") == []

        system.pushes = dict.fromkeys(names, TAKEN)
        for name in refused:
            await world.engine.service.give_credentials(name, credentials("basic", url), CALLER)
        await world.live(2 * HOUR)
        for name in names:
            back = ["reauthorization_started", "reauthorized"] if name in refused else ["unblocked"]
            assert await world.state(name) == "active", name
            assert of_state(await world.events(name))[1:] == [f"connection.{event}" for event in back], name
            assert await delivered(world, name) == 25 * len(DEVICES), name
        assert await world.rows("select * from issue where solved_at is null") == []


@pytest.mark.parametrize("deduplicates", [True, False])
async def test_a_day_of_failing_pushes_is_one_event_and_loses_nothing(
    database: Database, deduplicates: bool
) -> None:
    kinds: dict[str, Reply] = {"500": answer("500 Oops"), "302": LOGIN, "closed": cut}
    names = {f"{auth}-{kind}": auth for kind, auth in zip(kinds, CREDENTIALS, strict=True)}
    system = System(**{name: kinds[name.split("-")[1]] for name in names})
    async with system.serving() as url, day(database, url, names, deduplicates=deduplicates) as world:
        await live_a_day(world)
        for name in names:
            assert await world.state(name) == "degraded", name
            assert of_state(await world.events(name)) == ["connection.degraded"], name
        assert await world.rows("select * from dead_letter") == []
        shown = await world.rows("select distinct operation, reason is not null as why from connection")
        assert shown == [{"operation": "push", "why": True}]

        system.pushes = dict.fromkeys(names, TAKEN)
        await world.live(2 * HOUR)
        for name in names:
            assert await world.state(name) == "active", name
            assert of_state(await world.events(name))[1:] == ["connection.recovered"], name
            assert await delivered(world, name) == 25 * len(DEVICES), name
        assert await world.rows("select * from dead_letter") == []


async def test_what_comes_and_goes_is_told_twice_a_day_and_not_each_time(database: Database) -> None:
    """Three failures, a success, and again."""
    turn = 0

    async def now_and_then(writer: asyncio.StreamWriter) -> None:
        nonlocal turn
        turn += 1
        await (answer("500 Oops") if turn % 4 else TAKEN)(writer)

    system = System(storm=now_and_then)
    async with system.serving() as url, day(database, url, {"storm": "api_key"}, deduplicates=True) as world:
        for minute in range(6 * 60):
            if minute % 15 == 0:
                await world.store(1 + minute // 15, *DEVICES)
            await world.live(60.0)
        told = Counter(of_state(await world.events("storm")))
        assert turn > 40
        assert told["connection.degraded"] <= 3 and told["connection.recovered"] <= 3, told
