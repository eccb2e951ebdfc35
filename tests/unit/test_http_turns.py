"""Reads of the API take turns; what asks a system does not wait for them, nor they for it."""

from __future__ import annotations

import asyncio

import httpx
import orjson
import pytest
from starlette.types import Receive, Scope, Send

from gateway.http import middleware
from gateway.http.middleware import RequestIds, Turns


class Slow:
    """Answers when it is let go."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.go = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.inside.append(scope["path"])
        await self.go.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def slow() -> Slow:
    return Slow()


def client(slow: Slow) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(RequestIds(Turns(slow))), base_url="http://gateway.test")


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_one_read_at_a_time_and_everything_else_at_once(slow: Slow) -> None:
    async with client(slow) as asking:
        reads = [asyncio.create_task(asking.get(f"/v1/connections/{number}/status")) for number in range(3)]
        await settled()
        assert slow.inside == ["/v1/connections/0/status"]
        others = [asyncio.create_task(work) for work in (asking.get("/v1/connections/1/meters"), asking.post("/v1/connections"), asking.get("/metrics"))]
        await settled()
        assert slow.inside[1:] == ["/v1/connections/1/meters", "/v1/connections", "/metrics"]
        slow.go.set()
        assert {answer.status_code for answer in await asyncio.gather(*reads, *others)} == {204}


async def test_a_read_that_waited_too_long_is_told_to_come_back_and_the_turn_goes_on(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "TURN_SECONDS", 0.01)
    async with client(slow) as asking:
        first = asyncio.create_task(asking.get("/v1/systems"))
        await settled()
        refused = await asking.get("/v1/systems")
        assert (refused.status_code, orjson.loads(refused.content)["code"]) == (503, "gateway.overloaded")
        slow.go.set()
        assert (await first).status_code == 204
        assert (await asking.get("/v1/systems")).status_code == 204
