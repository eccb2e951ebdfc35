"""Requests that are under way when HTTP stops: those that can be answered are, those that wait are told so, and
nobody reads of them in the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from benchmarks.servers import PATIENCE, patient
from gateway.http.gathering import Gathering
from gateway.http.server import STOP_SECONDS
from gateway.http.under_way import UnderWay
from gateway.store import turns
from tests.fixtures.http_fakes import Well, serving, world

MANY = 20


class Waiting(Well):
    """Parts of which nobody knows how they are: each look takes so long."""

    def __init__(self, *, seconds: float | None = None, again: int = 0) -> None:
        """`seconds` None: for ever. `again`: so often it waits once more when it is cancelled."""
        super().__init__()
        self.begun, self._seconds, self._again = 0, seconds, again

    async def checks(self) -> dict[str, bool]:
        self.begun += 1
        for left in range(self._again, -1, -1):
            try:
                await (asyncio.Event().wait() if self._seconds is None else asyncio.sleep(self._seconds))
            except asyncio.CancelledError:
                if not left:
                    raise
            else:
                break
        return await super().checks()


class Large(Well):
    async def exposition(self, accept: str) -> tuple[str, str]:
        return "x" * (32 << 20), "text/plain"


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("again", [0, 3], ids=["one", "whose-end-waits-too"])
async def test_what_waits_for_ever_is_answered_and_ended_in_time(
    caplog: pytest.LogCaptureFixture, again: int
) -> None:
    waiting = Waiting(again=again)
    async with serving(waiting) as client:
        asked = [asyncio.create_task(client.get("/readyz")) for _ in range(MANY)]
        async with patient(5):
            while waiting.begun < MANY:
                await asyncio.sleep(0.01)
        began = time.monotonic()
    took = time.monotonic() - began
    answers = await asyncio.gather(*asked)
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {
        (503, "gateway.overloaded")
    }
    assert all(answer.json()["retryable"] and answer.headers["retry-after"] == "1" for answer in answers)
    assert all(answer.json()["request_id"] for answer in answers)
    assert took < (STOP_SECONDS + 0.5) * PATIENCE and told(caplog) == []


async def test_a_browser_is_told_by_a_page_and_a_program_by_json() -> None:
    waiting = Waiting()
    made = world()
    async with serving(waiting, services=made.mounted.services) as client:
        asked = [
            asyncio.create_task(client.get("/status", headers={"Accept": accept}))
            for accept in ("text/html,*/*;q=0.8", "application/json")
        ]
        async with patient(5):
            while waiting.begun < len(asked):
                await asyncio.sleep(0.01)
    page, document = [await answer for answer in asked]
    assert page.status_code == document.status_code == 503
    assert (
        page.headers["content-type"].startswith("text/html") and "stops before it could answer" in page.text
    )
    assert page.headers["x-request-id"] in page.text
    assert document.json()["code"] == "gateway.overloaded"
    for answer in (page, document):
        assert answer.headers["retry-after"] == "1" and answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]


async def test_what_can_be_answered_in_time_is(caplog: pytest.LogCaptureFixture) -> None:
    waiting = Waiting(seconds=0.5)
    async with serving(waiting) as client:
        asked = asyncio.create_task(client.get("/readyz"))
        async with patient(5):
            while not waiting.begun:
                await asyncio.sleep(0.01)
        began = time.monotonic()
    assert (await asked).json()["checks"]["broker"] is True and time.monotonic() - began < 2 * PATIENCE
    assert told(caplog) == []


async def test_who_does_not_read_the_answer_is_left(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Large()) as client:
        reader, writer = await asyncio.open_connection(
            client.base_url.host, client.base_url.port, limit=1 << 16
        )
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readline()  # the answer is on its way, and no more of it is read
        began = time.monotonic()
    assert time.monotonic() - began < (STOP_SECONDS + 0.5) * PATIENCE and told(caplog) == []
    writer.close()


async def test_without_requests_it_stops_at_once() -> None:
    async with serving(Well()) as client:
        assert (await client.get("/healthz")).status_code == 200
        began = time.monotonic()
    assert time.monotonic() - began < 1 * PATIENCE


async def test_a_request_works_for_nobody_until_it_says_for_whom() -> None:
    """uvicorn begins a request that was sent behind another within the context of that one."""
    seen: list[str | None] = []

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(turns._customer.get())

    async def nothing(*_: Any) -> Any:
        raise AssertionError("the application asks for nothing")

    turns.work_for("acme")
    await UnderWay().through(app)({"type": "http"}, nothing, nothing)
    assert seen == [None]


async def test_a_read_for_all_who_ask_works_for_none_of_them() -> None:
    seen: list[str | None] = []

    async def read(keys: Sequence[str]) -> dict[str, int]:
        seen.append(turns._customer.get())
        return dict.fromkeys(keys, 1)

    turns.work_for("acme")
    assert await Gathering(read).get("pump") == 1
    assert seen == [None]
