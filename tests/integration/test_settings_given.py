"""Settings that are given are used when they are verified, and not before: until then, and where they are
refused, calls go where they went, with the credential that was given for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from benchmarks.servers import PATIENCE, wait_until
from gateway.connections import lifecycle, next_look
from gateway.model.access import Caller, Origin
from gateway.model.connector import Connector, ConnectorSettings, ProbeResult
from gateway.model.errors import (
    AuthRefused,
    ConnectorError,
    PermissionDenied,
    RequestRefused,
    Unavailable,
)
from gateway.model.outcome import Outcome
from gateway.model.reading import Batch
from gateway.settings import ConnectionPatch, CredentialSettings, CreditsSettings
from gateway.store import connections, probes
from gateway.store.credits import sync_capacity
from gateway.store.pool import Database
from tests.fixtures.connection_rig import CALLER, World, credentials
from tests.fixtures.scripted import UPSERT, Scripted
from tests.fixtures.sync_rig import BASE, Rig

OURS, THEIRS = "https://a.example", "https://b.example"
Place = tuple[object, str]
"""Where a call goes, and the key that it carries."""


@dataclass
class Sites:
    """Systems at several addresses. `answers`: what each says to a probe, its account or why not."""

    answers: dict[Place, str | ConnectorError] = field(default_factory=dict)
    probed: list[Place] = field(default_factory=list)
    hold: asyncio.Event | None = None

    def build(self, built_from: ConnectorSettings) -> Connector:
        return Site(self, (built_from.settings.get("base_url"), built_from.credentials.get("api_key", "")))


class Site(Scripted):
    def __init__(self, sites: Sites, place: Place) -> None:
        super().__init__()
        self.sites, self.place = sites, place

    async def probe(self) -> ProbeResult:
        self.sites.probed.append(self.place)
        answer = self.sites.answers.get(self.place, "ours")
        if self.sites.hold is not None:
            await self.sites.hold.wait()
        if isinstance(answer, ConnectorError):
            raise answer
        return ProbeResult(account=answer)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(next_look, "RETRY_CAP_SECONDS", 0.02)


@pytest.fixture
async def sites(database: Database) -> Sites:
    await sync_capacity(database, CreditsSettings())
    return Sites()


@pytest.fixture
async def world(database: Database, sites: Sites) -> World:
    world = World(database)
    world.system.build = sites.build  # type: ignore[method-assign]
    return await world.active(settings={"base_url": OURS})


def used_by(world: World) -> Place:
    link = world.engine.links.get("acme-1")
    assert link is not None
    site = link.connector._connector  # type: ignore[attr-defined]
    assert isinstance(site, Site)
    return site.place


async def tried(world: World, patch: ConnectionPatch, *, event: str) -> None:
    """The change is verified to its end."""
    await world.service.change("acme-1", patch, CALLER)
    async with world.living():

        async def told() -> bool:
            return event in await world.events()

        await wait_until(told, what=event)
    await world.engine.lifecycle.refresh()


REFUSALS: dict[str, str | ConnectorError] = {
    "refused": AuthRefused("no such key"),
    "denied": PermissionDenied("no permission"),
    "another account": "theirs",
}


@pytest.mark.parametrize("key", ["key-1", "key-2"])
@pytest.mark.parametrize("answer", REFUSALS.values(), ids=REFUSALS)
async def test_what_is_refused_is_not_used(
    world: World, sites: Sites, answer: str | ConnectorError, key: str
) -> None:
    """Nor does the credential that works go where it was never meant to."""
    sites.answers[THEIRS, key] = answer
    given = credentials(key) if key != "key-1" else None
    patch = ConnectionPatch(settings={"base_url": THEIRS}, credentials=given)
    await tried(world, patch, event="connection.verification_failed")
    assert await world.state() == "active"
    assert used_by(world) == (OURS, "key-1")
    (row,) = await world.rows("select settings, candidate, in_use from connection")
    assert row == {"settings": {"base_url": OURS}, "candidate": None, "in_use": None}


async def test_what_is_put_off_is_not_used_meanwhile_and_is_verified_at_last(
    world: World, sites: Sites
) -> None:
    """Also of a connection that is busy: its calls put off no verification."""
    sites.answers[THEIRS, "key-1"] = Unavailable("away")
    await world.service.change("acme-1", ConnectionPatch(settings={"base_url": THEIRS}), CALLER)
    await world.execute("update connection set verify_until = now()")
    async with world.living():
        await world.reaches("active")
    await world.engine.lifecycle.refresh()
    assert used_by(world) == (OURS, "key-1")
    await world.execute("update connection set probe_at = now() + interval '1 second', probe_attempts = 1")
    await connections.note_answer(world.database, "acme-1", next_probe_seconds=3600)
    sites.answers.clear()
    async with world.living():

        async def is_in_use() -> bool:
            return bool(await world.rows("select from connection where in_use is null and state = 'active'"))

        await wait_until(is_in_use, what="the settings are verified")
    await world.engine.lifecycle.refresh()
    assert used_by(world) == (THEIRS, "key-1")


async def test_settings_that_change_in_the_probe_are_verified_themselves(world: World, sites: Sites) -> None:
    """The answer is of the settings before."""
    sites.answers[THEIRS, "key-1"] = "theirs"
    sites.hold = asyncio.Event()
    await world.service.change("acme-1", ConnectionPatch(settings={"base_url": "https://c.example"}), CALLER)
    [due] = await probes.claim(world.database, lease_seconds=60, limit=10)
    late = asyncio.create_task(world.engine.lifecycle._candidates.verify(due))
    await wait_until(lambda: ("https://c.example", "key-1") in sites.probed, what="it is probed")
    await world.service.change("acme-1", ConnectionPatch(settings={"base_url": THEIRS}), CALLER)
    sites.hold.set()
    await asyncio.wait_for(late, 10 * PATIENCE)
    assert await world.state() == "verifying"
    [again] = await probes.claim(world.database, lease_seconds=60, limit=10)  # due at once
    await world.engine.lifecycle._candidates.verify(again)
    await world.engine.lifecycle.refresh()
    assert (await world.state(), used_by(world)) == ("active", (OURS, "key-1"))


@pytest.mark.parametrize(
    ("news", "attempts"),
    [(AuthRefused("gone", final=True), 1), (PermissionDenied("no"), 1), (Unavailable("away"), 9)],
    ids=["refused", "denied", "away"],
)
async def test_news_of_the_settings_before_move_nothing(
    world: World, sites: Sites, news: ConnectorError, attempts: int
) -> None:
    """A call that was slow comes back when its address is no longer the connection's."""
    old = world.engine.links.get("acme-1")
    assert old is not None
    await tried(world, ConnectionPatch(settings={"base_url": THEIRS}), event="connection.reauthorized")
    sites.answers[OURS, "key-1"] = news  # what was there is gone: a probe by the old link is no better
    await world.engine.health.failed(old, news, attempts=attempts)
    assert await world.state() == "active" and await world.issues() == []
    new = world.engine.links.get("acme-1")
    assert new is not None
    await world.engine.health.failed(new, AuthRefused("gone", final=True), attempts=1)
    assert await world.state() == "reauthorization_required"


async def test_a_run_sends_nothing_more_to_where_the_connection_was(database: Database) -> None:
    """The batch in hand is the last, and the next run goes on where it stopped."""
    connector = Scripted(capabilities=UPSERT)
    rig = await Rig(database, connector).activate()
    await rig.store(*[(f"d{number:03}", BASE, 1.0) for number in range(250)])
    patch = ConnectionPatch(settings={"base_url": THEIRS})

    async def answer(batch: Batch) -> Sequence[Outcome]:
        connector.answer = None
        await rig.engine.service.change(rig.name, patch, CALLER)
        async with database.transaction() as connection:  # they are verified at once
            await connection.execute("update connection set state = 'active', prior_state = null")
            delivery = connector.capabilities.delivery
            await connections.promote(connection, rig.name, account=None, delivery=delivery)
        return connector.take(batch.readings)

    connector.answer = answer
    await rig.run()
    assert len(connector.pushes) == 1 and await rig.rows("select from push_intent") == []
    (row,) = await rig.rows("select configuration from connection")
    rig.configuration = row["configuration"]
    await rig.change_rules(*rig.rules)
    await rig.run(times=3)
    assert len(await rig.delivered()) == len(connector.taken) == 250, "each once"


async def test_a_new_credential_that_lacks_a_permission_is_the_one_that_is_tried_again(
    world: World, sites: Sites
) -> None:
    """Not the one before it, which the system had refused for good."""
    link = world.engine.links.get("acme-1")
    assert link is not None
    await world.engine.health.failed(link, AuthRefused("gone", final=True), attempts=1)
    sites.answers[OURS, "key-1"] = AuthRefused("gone", final=True)
    sites.answers[OURS, "key-2"] = PermissionDenied("no permission")
    await tried(world, ConnectionPatch(credentials=credentials("key-2")), event="connection.blocked")
    assert await world.state() == "blocked"
    sites.probed.clear()
    sites.answers[OURS, "key-2"] = "theirs"  # the permission is there; the account has not been seen so far
    await world.due_now()
    async with world.living():
        await world.reaches("reauthorization_required")
    assert sites.probed == [(OURS, "key-2")]
    sites.answers[OURS, "key-3"] = PermissionDenied("no permission")
    await world.service.give_credentials("acme-1", credentials("key-3"), CALLER)
    async with world.living():
        await world.reaches("blocked")
        sites.answers[OURS, "key-3"] = "ours"
        await world.due_now()
        await world.reaches("active")
    assert (OURS, "key-1") not in sites.probed and used_by(world) == (OURS, "key-3")
    assert await world.rows("select generation from credential") == [{"generation": 3}]


BOUND = Caller(name="token:acme", origin=Origin.BOUND)


async def test_no_detour_leads_a_credential_elsewhere(world: World, sites: Sites) -> None:
    """A customer names another host: what the operator gave is never sent there, whatever is refused first."""
    nothing = CredentialSettings.model_validate({"type": "none"})
    sites.answers[OURS, ""] = AuthRefused("a key is needed")
    await world.service.change("acme-1", ConnectionPatch(credentials=nothing), BOUND)
    async with world.living():
        await world.reaches("active")
    moved = ConnectionPatch(settings={"base_url": THEIRS})
    with pytest.raises(RequestRefused, match="another host"):
        await world.service.change("acme-1", moved, BOUND)
    link = world.engine.links.get("acme-1")
    assert link is not None
    await world.engine.health.failed(link, AuthRefused("gone", final=True), attempts=1)
    sites.answers[THEIRS, "mine"] = AuthRefused("no such key")
    with_mine = ConnectionPatch(settings={"base_url": THEIRS}, credentials=credentials("mine"))
    await world.service.change("acme-1", with_mine, BOUND)
    async with world.living():
        await world.reaches("reauthorization_required")
    with pytest.raises(RequestRefused, match="another host"):
        await world.service.retry_credentials("acme-1", CALLER)
    assert (THEIRS, "key-1") not in sites.probed
