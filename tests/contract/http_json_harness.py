"""The contract suite's harnesses of the JSON connector: two configurations, against our own receiver and a
raw server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Any, ClassVar

from benchmarks.servers import free_port
from connectors.http_json.connector import HttpJsonConnector
from gateway.model.connector import Connector, ConnectorSettings, unobserved
from gateway.model.reading import Reading
from gateway.model.sample import Value
from tests.contract.faults import FaultServer, answer
from tests.contract.harness import CONNECTION, Calls, http_reply, reading
from tests.contract.http_json_receiver import Receiver
from tests.contract.sap_servers import serving

SECRET = "a-signing-secret-of-the-suite"
READ_BACK = {"path": "/readings"}


class HttpJsonHarness:
    """Signed requests to a receiver that keeps one reading for each key and tells of each."""

    system = "http_json"
    exempt: Mapping[str, str] = {}
    settings: ClassVar[Mapping[str, object]] = {"deduplicates": True, "results": {}, "read_back": READ_BACK}
    credentials: ClassVar[Mapping[str, str]] = {"secret": SECRET}

    def receiver_of(self) -> Receiver:
        return Receiver(secret=SECRET, deduplicates=True, tells=True)

    @asynccontextmanager
    async def running(self, dsn: str) -> AsyncIterator[None]:
        self.receiver = self.receiver_of()
        async with serving(self.receiver) as self.url:
            yield

    def connector(
        self,
        *,
        timeout_seconds: float = 5.0,
        calls: Calls | None = None,
        url: str | None = None,
        credentials: Mapping[str, str] | None = None,
        token: Any = None,
        **settings: object,
    ) -> HttpJsonConnector:
        return HttpJsonConnector(
            ConnectorSettings(
                connection=CONNECTION,
                hosting="cloud",
                settings={"base_url": url or self.url, **self.settings, **settings},
                credentials=self.credentials if credentials is None else credentials,
                timeout_seconds=timeout_seconds,
                observe=calls or unobserved,
                token=token,
            )
        )

    def meter(self, number: int) -> str:
        return f"meter-{number}"

    def refused(self, at: datetime) -> Reading:
        return reading("refused", at, 1.0)

    async def held(self) -> dict[tuple[str, datetime], list[Value]]:
        return self.receiver.held()

    @asynccontextmanager
    async def failing(self, fault: str) -> AsyncIterator[Connector]:
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(
                FaultServer(on_get=answer("200 OK", b"{}"), on_other=http_reply(fault))
            )
            url = {
                "unreachable": f"http://127.0.0.1:{free_port()}",
                "name_not_resolved": "https://does-not-exist.invalid",
            }.get(fault, server.url)
            connector = self.connector(url=url, timeout_seconds=1.0)
            stack.push_async_callback(connector.close)
            yield connector


class HttpJsonOpaqueHarness(HttpJsonHarness):
    """An API key and an envelope, to a receiver that takes a request whole or not at all and knows no
    repeats, but can be asked.
    """

    variant = "opaque"
    exempt: Mapping[str, str] = dict.fromkeys(
        ("repeat_is_duplicate", "change_is_accepted"), "this receiver does not deduplicate"
    )
    settings: ClassVar[Mapping[str, object]] = {
        "body": {"batch": "{batch}", "items": "{readings}"},
        "read_back": READ_BACK,
        "answer": "json",
    }
    credentials: ClassVar[Mapping[str, str]] = {"api_key": "an-api-key-of-the-suite"}

    def receiver_of(self) -> Receiver:
        return Receiver(token=self.credentials["api_key"])


class HttpJsonSinglyHarness(HttpJsonHarness):
    """One request for each reading."""

    variant = "singly"
    settings: ClassVar[Mapping[str, object]] = {"deduplicates": True, "send": "each", "read_back": READ_BACK}
    exempt: Mapping[str, str] = {
        "repeat_is_duplicate": "a status tells that a reading is there, not that it was",
        "not_json": "any 2xx says that the reading was taken",
    }

    def receiver_of(self) -> Receiver:
        return Receiver(secret=SECRET, deduplicates=True)


class Tokens:
    """Hands out the tokens it was given, the next one when one was refused."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)
        self.refused: list[str] = []

    async def access_token(self, *, refused: str | None = None) -> str:
        if refused is not None:
            self.refused.append(refused)
            self.tokens.pop(0)
        return self.tokens[0]
