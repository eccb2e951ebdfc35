"""The short way of the status document: the same answers as the long way, fewer queries, never an old one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from gateway.http import gathering, status_fast_path
from gateway.http.gathering import Gathering
from gateway.model.connection import State
from gateway.model.errors import StoreUnavailable
from gateway.model.status import ConnectionStatus
from tests.fixtures.http_fakes import World, world

STATUS = "/v1/connections/acme-2/status"


class Table:
    """What is read, a read at a time, each of which ends when it is let go."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.reads: list[list[str]] = []
        self.go = asyncio.Semaphore(0)
        self.broken = False

    async def read(self, keys: Sequence[str]) -> Mapping[str, int]:
        self.reads.append(sorted(keys))
        found = {key: self.rows[key] for key in keys if key in self.rows}
        await self.go.acquire()
        if self.broken:
            raise StoreUnavailable("away")
        return found


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "BETWEEN_SECONDS", 0.0)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_is_asked_during_a_read_goes_together_as_the_next_and_is_not_older_than_the_question() -> (
    None
):
    table = Table()
    gathered, table.rows = Gathering(table.read), {"a": 1}
    first = asyncio.create_task(gathered.get("a"))
    await settled()
    table.rows = {"a": 2, "b": 3}
    later = [asyncio.create_task(gathered.get(key)) for key in ("a", "b", "a", "c")]
    await settled()
    assert table.reads == [["a"]]
    table.go.release()
    table.go.release()
    assert await first == 1
    assert await asyncio.gather(*later) == [2, 3, 2, None]
    assert table.reads == [["a"], ["a", "b", "c"]]


async def test_a_read_that_fails_fails_for_those_who_asked_and_for_nobody_else() -> None:
    table = Table()
    gathered, table.broken = Gathering(table.read), True
    asked = [asyncio.create_task(gathered.get("a")) for _ in range(2)]
    await settled()
    table.go.release()
    assert all(
        isinstance(said, StoreUnavailable) for said in await asyncio.gather(*asked, return_exceptions=True)
    )
    table.broken, table.rows = False, {"a": 1}
    table.go.release()
    assert await gathered.get("a") == 1


async def test_who_goes_away_takes_nothing_from_the_others() -> None:
    table = Table()
    gathered, table.rows = Gathering(table.read), {"a": 1}
    leaving, staying = asyncio.create_task(gathered.get("a")), asyncio.create_task(gathered.get("a"))
    await settled()
    leaving.cancel()
    await settled()
    table.go.release()
    assert await staying == 1


async def test_the_next_read_waits_a_moment_and_the_first_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "BETWEEN_SECONDS", 3600.0)
    table = Table()
    gathered, table.rows = Gathering(table.read), {"a": 1}
    table.go.release()
    assert await gathered.get("a") == 1
    second = asyncio.create_task(gathered.get("a"))
    await settled()
    assert (second.done(), len(table.reads)) == (False, 1)
    second.cancel()


@pytest.fixture
def here() -> World:
    return world()


class Counting:
    """Counts the reads of statuses."""

    def __init__(self, here: World) -> None:
        self.reads: list[list[str]] = []
        self._read = here.reader.status
        here.reader.status = self.status  # type: ignore[method-assign]

    async def status(self, connections: Sequence[str] | None) -> list[ConnectionStatus]:
        self.reads.append(list(connections or ()))
        return await self._read(connections)


async def test_callers_side_by_side_share_a_read_and_nobody_sees_what_is_old(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting(here)
    async with here.client("viewer") as client:
        answers = await asyncio.gather(*(client.get(STATUS) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert len(counting.reads) < 10
        assert (await client.get(STATUS)).content == answers[-1].content, "held"
        here.reader.put(replace(here.reader.held["acme-2"], state=State.PAUSED, version=99))
        monkeypatch.setattr(status_fast_path, "HELD_SECONDS", 0.0)
        await asyncio.sleep(0.11)
        now = await client.get(STATUS)
        assert (now.json()["state"], now.headers["etag"]) == ("paused", '"99"')
        assert (await client.get(STATUS, headers={"If-None-Match": '"99"'})).status_code == 304


async def test_what_was_changed_here_is_seen_at_once(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_fast_path, "HELD_SECONDS", 3600.0)
    async with here.client("operator") as client:
        for _ in range(2):  # the token is known from the first request on
            assert (await client.get(STATUS)).json()["state"] == "active"
        here.reader.put(replace(here.reader.held["acme-2"], state=State.PAUSED, version=99))
        assert (await client.get(STATUS)).json()["state"] == "active", (
            "changed elsewhere: seen when the time is over"
        )
        await client.post("/v1/connections/acme-2/pause")
        assert (await client.get(STATUS)).json()["state"] == "paused"


async def test_what_was_read_before_a_change_is_not_held_after_it(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_fast_path, "HELD_SECONDS", 3600.0)
    reading, go, read = asyncio.Event(), asyncio.Event(), here.reader.status

    async def slow(connections: Sequence[str] | None) -> list[ConnectionStatus]:
        found = await read(connections)
        reading.set()
        await go.wait()
        return found

    here.reader.status = slow  # type: ignore[method-assign]
    async with here.client("operator") as client:
        early = asyncio.create_task(client.get(STATUS))
        await reading.wait()
        here.reader.put(replace(here.reader.held["acme-2"], state=State.PAUSED, version=99))
        await client.post("/v1/connections/acme-2/pause")
        go.set()
        assert (await early).json()["state"] == "active"
        assert (await client.get(STATUS)).json()["state"] == "paused"


@pytest.mark.parametrize("held", [False, True])
async def test_an_answer_that_is_held_is_given_to_nobody_else(here: World, held: bool) -> None:
    async with here.client("viewer") as viewer, here.client("globex") as stranger, here.client() as nobody:
        transport = viewer._transport
        if held:
            assert (await viewer.get(STATUS)).status_code == 200
        for client, refused in ((stranger, 404), (nobody, 401)):
            client._transport = transport  # one application for all of them
            assert (await client.get(STATUS)).status_code == refused


@pytest.mark.parametrize(
    ("who", "path", "status"),
    [("globex", STATUS, 404), ("viewer", "/v1/connections/none/status", 404), (None, STATUS, 401)],
)
async def test_what_is_refused_goes_the_long_way_and_says_why(
    here: World, who: str | None, path: str, status: int
) -> None:
    async with here.client(who) as client:
        answer = await client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


async def test_a_database_that_is_away_is_said_by_the_long_way(here: World) -> None:
    async def away(_: object) -> list[ConnectionStatus]:
        raise StoreUnavailable("away")

    here.reader.status = away  # type: ignore[assignment,method-assign]
    async with here.client("viewer") as client:
        answer = await client.get(STATUS)
    assert (answer.status_code, answer.json()["code"]) == (503, "gateway.overloaded")


async def test_a_gateway_that_starts_says_so(here: World) -> None:
    here.mounted.services = None
    async with here.client("viewer") as client:
        answer = await client.get(STATUS)
    assert (answer.status_code, answer.json()["code"]) == (503, "gateway.overloaded")
