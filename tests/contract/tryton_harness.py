"""The contract suite's harness of Tryton: a real server for what works, a raw one for what does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime

import orjson

from benchmarks.servers import free_port
from connectors.tryton.connector import TrytonConnector
from gateway.model.connector import Connector, ConnectorSettings, unobserved
from gateway.model.reading import Reading
from gateway.model.sample import Value
from tests.contract.faults import FaultServer, Reply, answer
from tests.contract.harness import CONNECTION, Calls, http_reply, reading
from tests.fixtures.tryton import FORBIDDEN, shared_tryton

_POINTS = ("temperature", "vibration")
LISTED = [
    {
        "id": number,
        "name": f"pump-{number}",
        "company": {"id": 1},
        "points": [{"name": name, "string": name.title(), "type_": "float"} for name in _POINTS],
    }
    for number in range(30)
]


class TrytonHarness:
    """Two meters are two points of one control: their readings of one time share an inspection."""

    system = "tryton"
    exempt: Mapping[str, str] = {}

    @asynccontextmanager
    async def running(self, dsn: str) -> AsyncIterator[None]:
        self.tryton = await asyncio.to_thread(shared_tryton)
        await asyncio.to_thread(self.tryton.forget_inspections)
        yield

    def connector(
        self,
        *,
        timeout_seconds: float = 20.0,
        calls: Calls | None = None,
        url: str | None = None,
        key: str | None = None,
        **settings: object,
    ) -> TrytonConnector:
        return TrytonConnector(
            ConnectorSettings(
                connection=CONNECTION,
                hosting="on_premises",
                settings={"base_url": url or self.tryton.url, "database": self.tryton.database, **settings},
                credentials={"api_key": key or self.tryton.key},
                timeout_seconds=timeout_seconds,
                observe=calls or unobserved,
            )
        )

    def meter(self, number: int) -> str:
        return f"pump-{number // 2}/{_POINTS[number % 2]}"

    def refused(self, at: datetime) -> Reading:
        return reading(f"{FORBIDDEN}/temperature", at, 1.0)

    async def held(self) -> dict[tuple[str, datetime], list[Value]]:
        return await asyncio.to_thread(self.tryton.held)

    @asynccontextmanager
    async def failing(self, fault: str) -> AsyncIterator[Connector]:
        async with AsyncExitStack() as stack:
            server = FaultServer(
                on_get=answer("200 OK", orjson.dumps(LISTED)), on_other=answer("200 OK", b"[]")
            )
            server.on_other = after_the_question(server, http_reply(fault))
            await stack.enter_async_context(server)
            url = {
                "unreachable": f"http://127.0.0.1:{free_port()}",
                "name_not_resolved": "https://does-not-exist.invalid",
            }.get(fault, server.url)
            connector = self.connector(url=url, timeout_seconds=1.0, key="contract-suite-key")
            stack.push_async_callback(connector.close)
            yield connector


def after_the_question(server: FaultServer, fault: Reply) -> Reply:
    """What is held is asked by POST too; the fault strikes what creates."""
    nothing = answer("200 OK", b"[]")

    async def reply(writer: asyncio.StreamWriter) -> None:
        await (nothing if b"/search_read " in server.requests[-1] else fault)(writer)

    return reply
