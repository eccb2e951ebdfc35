"""Random transient faults, any number of them in any order: nobody is ever asked for a new credential."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from gateway.model.errors import AuthRefused, ConnectorError, OutcomeUnknown, RateLimited, Unavailable
from gateway.settings import CreditsSettings
from gateway.store.credits import sync_capacity
from gateway.store.pool import Database
from tests.fixtures.connection_rig import World
from tests.fixtures.scripted import Scripted

FAULTS = (
    lambda: Unavailable("the system answered 503"),
    lambda: Unavailable("cannot resolve the name"),
    lambda: Unavailable("TLS handshake failed"),
    lambda: OutcomeUnknown("no answer"),
    lambda: RateLimited("429", retry_after=0.01),
    lambda: AuthRefused("a page that asks for a login", doubtful=True),
)


class Faulty(Scripted):
    """Its probes meet faults too, but no refusal: the credential is good."""

    rand = random.Random(0)

    async def probe(self) -> None:  # type: ignore[override]
        self.probes += 1
        found: ConnectorError = self.rand.choice(FAULTS)()
        if self.rand.random() < 0.7:
            raise found


@pytest.mark.parametrize(
    "faults", [400, pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(900)])]
)
async def test_no_reauthorization_is_invented(database: Database, faults: int) -> None:
    await sync_capacity(database, CreditsSettings())
    rand, names = random.Random(1), [f"acme-{number}" for number in range(8)]
    world = World(database)
    for name in names:
        await world.active(name)
    world.system.connector = Faulty()
    await world.execute("update connection set configuration = configuration + 1")
    await world.engine.lifecycle.refresh()
    links = [world.engine.links.current[name] for name in names]

    async def suffer(number: int) -> None:
        attempts = 0
        for _ in range(faults // len(links)):
            if rand.random() < 0.1:
                await world.engine.health.succeeded(links[number])
                attempts = 0
            attempts += 1
            await world.engine.health.failed(links[number], rand.choice(FAULTS)(), attempts=attempts)

    await asyncio.gather(*(suffer(number) for number in range(len(links))))
    states = Counter([await world.state(name) for name in names])
    assert states.keys() <= {"active", "degraded"}, states
    assert await world.rows("select * from connection_audit where trigger = 'auth_refused'") == []
    assert (
        await world.rows("select * from event where type like '%reauthorization%' or type like '%blocked%'")
        == []
    )
    assert await world.rows("select * from issue") == []
