"""The contract suite's harnesses of SAP S/4HANA and SAP ECC: independent OData servers for what works, a raw
server for what does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, ClassVar

import pytest

from benchmarks.servers import free_port
from connectors.registry import SYSTEMS
from gateway.model.connector import Connector, ConnectorSettings, unobserved
from gateway.model.reading import Reading
from gateway.model.sample import Value
from tests.contract.faults import FaultServer
from tests.contract.harness import CONNECTION, Calls, http_reply, reading
from tests.contract.sap_rules import App, MeasuringPoint, SapFront, SapRules
from tests.contract.sap_servers import DOCUMENTS_V2, NodeServer, add_point, s4_app, serving

USER = {"username": "MQTTGW", "password": "Welcome1!"}
ZONE = "Asia/Kolkata"
"""Far from UTC by hours and by half an hour, and without summer time: an error in the conversion cannot hide.
"""


class SapHarness:
    """What both share. `rules` and `front` are open to tests: the plant, its clock, its faults."""

    system: str
    settings: ClassVar[Mapping[str, object]]
    exempt: Mapping[str, str] = {
        "change_is_accepted": "a measurement document is never changed: a person reverses it"
    }
    node: ClassVar[NodeServer | None] = None

    @asynccontextmanager
    async def running(
        self, dsn: str, *, zone: str = ZONE, certificates: bool = False, **options: Any
    ) -> AsyncIterator[None]:
        self.rules = SapRules(zone)
        self.zone = zone
        self.rules.points = {str(1000 + number): MeasuringPoint() for number in range(400)}
        self.front = SapFront(
            self.app(), self.rules, users={USER["username"]: USER["password"]}, certificates=certificates
        )
        async with serving(self.front, **options) as self.url:
            yield

    def app(self) -> App:
        raise NotImplementedError

    def connector(
        self,
        *,
        timeout_seconds: float = 5.0,
        calls: Calls | None = None,
        url: str | None = None,
        credentials: Mapping[str, str] = USER,
        token: Any = None,
        gate: Any = None,
        **settings: object,
    ) -> Connector:
        block = {"base_url": url or self.url, "time_zone": self.zone, **self.settings, **settings}
        return SYSTEMS[self.system].build(
            ConnectorSettings(
                connection=CONNECTION,
                hosting="on_premises",
                settings=block,
                credentials=credentials,
                timeout_seconds=timeout_seconds,
                observe=calls or unobserved,
                token=token,
                gate=gate,
            )
        )

    def meter(self, number: int) -> str:
        return str(1000 + number)

    def refused(self, at: datetime) -> Reading:
        return reading("999999", at, 1.0)

    async def held(self) -> dict[tuple[str, datetime], list[Value]]:
        return self.rules.held()

    @asynccontextmanager
    async def failing(self, fault: str) -> AsyncIterator[Connector]:
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(
                FaultServer(on_get=_session_opened, on_other=http_reply(fault))
            )
            url = {
                "unreachable": f"http://127.0.0.1:{free_port()}",
                "name_not_resolved": "https://does-not-exist.invalid",
            }.get(fault, server.url)
            connector = self.connector(url=url, timeout_seconds=1.0)
            stack.push_async_callback(connector.close)
            yield connector


async def _session_opened(writer: asyncio.StreamWriter) -> None:
    """Answers the fetch of a token, by SAP's clock."""
    date = format_datetime(datetime.now(UTC), usegmt=True)
    writer.write(
        f"HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: 0\r\nx-csrf-token: t0ken\r\nSet-Cookie:"
        " SAP_SESSIONID=s; path=/\r\n\r\n".encode()
    )
    await writer.drain()


class S4hanaHarness(SapHarness):
    """odatapy (V4) for documents and points; fe-mockserver-core (V2) for notifications, where the test
    session runs it.
    """

    system = "sap_s4hana"
    settings: ClassVar[Mapping[str, object]] = {"client": "100"}
    page_size: ClassVar[int] = 1000

    def app(self) -> App:
        app, self.store = s4_app(
            self.rules, page_size=self.page_size, v2=None if self.node is None else self.node.app(self.rules)
        )
        return app

    def add_point(self, number: str, **values: object) -> None:
        """By the property's name."""
        add_point(self.store, number, **values)


class EccHarness(SapHarness):
    """fe-mockserver-core (V2)."""

    system = "sap_ecc"
    settings: ClassVar[Mapping[str, object]] = {"client": "100", "service": DOCUMENTS_V2}

    def app(self) -> App:
        assert self.node is not None, "the session's Node server does not run"
        return self.node.app(self.rules)


def need_node(request: pytest.FixtureRequest) -> None:
    """Starts the session's Node server, for tests that reach a V2 service."""
    SapHarness.node = request.getfixturevalue("node")
