"""What many look at is computed once for all of them: never older than what they were told, never one customer's for
another, and what fails or whoever goes away is nobody else's.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from gateway.http import shared
from gateway.http.shared import Part, SharedParts
from gateway.model.access import Principal, Role
from gateway.model.connection import State
from gateway.model.errors import StoreUnavailable
from tests.fixtures.http_fakes import World, described, world

NOW = datetime(2026, 11, 30, tzinfo=UTC)
MANY = 20
LIVE = {"Fieldgate-Live": "1"}


class Computed:
    """Counts how often; waits until it may go on."""

    def __init__(self) -> None:
        self.count, self.changes = 0, 0
        self.may_end = asyncio.Event()
        self.fault: Exception | None = None
        self.parts = SharedParts(lambda: self.changes)

    async def __call__(self) -> Part:
        self.count += 1
        number = self.count
        await self.may_end.wait()
        if self.fault is not None:
            raise self.fault
        return Part(at=NOW, html=str(number))

    async def ask(self, key: str = "a", *, anew: bool = False, customer: str | None = None) -> str:
        return (await self.parts.get(customer, key, self, anew=anew)).html


async def test_all_who_ask_at_the_same_time_get_one() -> None:
    computed = Computed()
    asked = [asyncio.create_task(computed.ask()) for _ in range(MANY)]
    await asyncio.sleep(0)
    computed.may_end.set()
    assert {await one for one in asked} == {"1"} and computed.count == 1
    assert await computed.ask() == "1"
    assert await computed.ask("b") == "2", "of another key another one"


async def test_nobody_gets_what_is_older_than_what_they_were_told() -> None:
    computed = Computed()
    before = asyncio.create_task(computed.ask())
    await asyncio.sleep(0)
    computed.changes += 1  # while it is computed: it may not be in it
    after = asyncio.create_task(computed.ask())
    await asyncio.sleep(0)
    computed.may_end.set()
    assert (await before, await after) == ("1", "2")
    assert await computed.ask(anew=True) == "3", "whoever changed something sees it"
    assert await computed.ask() == "3", "and so do the others"


async def test_a_part_is_given_to_others_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = Computed()
    computed.may_end.set()
    assert await computed.ask() == "1"
    monkeypatch.setattr(shared, "SHARED_SECONDS", 0.0)
    assert await computed.ask() == "2"


async def test_a_failure_is_told_to_those_who_waited_and_kept_for_nobody() -> None:
    computed = Computed()
    computed.fault = StoreUnavailable("away")
    asked = [asyncio.create_task(computed.ask()) for _ in range(2)]
    await asyncio.sleep(0)
    computed.may_end.set()
    for one in asked:
        with pytest.raises(StoreUnavailable):
            await one
    computed.fault = None
    assert await computed.ask() == "2"


async def test_whoever_goes_away_takes_it_from_nobody() -> None:
    computed = Computed()
    first, second = (asyncio.create_task(computed.ask()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    computed.may_end.set()
    assert await second == "1"


async def test_what_is_held_is_bounded() -> None:
    computed = Computed()
    computed.may_end.set()
    for number in range(3 * shared.MAX_SHARED):
        await computed.ask(str(number))
        assert len(computed.parts._held) <= shared.MAX_SHARED


async def test_a_customer_who_looks_for_many_things_takes_none_of_anothers_share() -> None:
    computed = Computed()
    computed.may_end.set()
    shown = await computed.ask("a", customer="acme")
    for number in range(3 * shared.MAX_SHARED):
        await computed.ask(str(number), customer="globex")
    assert await computed.ask("a", customer="acme") == shown


# The overview


async def cookies(made: World, customer: str | None = None, role: Role = Role.VIEWER) -> dict[str, str]:
    session = await made.access.open_session(Principal(name="b", role=role, customer=customer), "t")
    return {"fieldgate_session": session.secret}


async def test_open_overviews_cost_one_read_and_nothing_where_they_show_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shared, "SHARED_SECONDS", 1e6)  # however slow the machine is
    made, reads = world(), 0
    status = made.reader.status

    async def counted(names: list[str]) -> object:
        nonlocal reads
        reads += 1
        return await status(names)

    monkeypatch.setattr(made.reader, "status", counted)
    viewer, admin = await cookies(made), await cookies(made, role=Role.ADMIN)
    async with made.client(cookies=viewer) as one, made.client(cookies=admin) as other:
        await one.get("/")
        first = [await client.get("/", headers=LIVE) for client in (one, other) * MANY]
        assert reads == 1 and len({answer.text for answer in first}) == 1
        assert all(secret not in first[0].text for secret in ("csrf", "<nav", *viewer.values()))
        tag = {"If-None-Match": first[0].headers["etag"]}
        same = await one.get("/", headers=LIVE | tag)
        assert (same.status_code, same.content) == (304, b"")
        assert datetime.fromisoformat(same.headers["fieldgate-as-of"]).tzinfo is not None
        made.reader.put(described("acme-2", "acme", state=State.DEGRADED, reason="It broke"))
        await one.get("/")  # whoever changed something comes by an address, and asks for nothing shared
        fresh = await other.get("/", headers=LIVE | tag)
        assert fresh.status_code == 200 and "It broke" in fresh.text and reads == 2


async def test_nothing_is_shared_between_customers() -> None:
    made = world()
    seen = {}
    for customer in ("acme", "globex", None):
        async with made.client(cookies=await cookies(made, customer)) as client:
            seen[customer] = (await client.get("/", headers=LIVE)).text
    assert "connections/globex-1" not in seen["acme"] and "connections/acme-2" not in seen["globex"]
    assert {"connections/globex-1" in seen[None], "connections/acme-2" in seen[None]} == {True}
