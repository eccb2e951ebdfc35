"""What the contract suite needs of a connector: a running server, valid settings, and a
way to make it fail.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol
from urllib.parse import urlsplit

import asyncpg

from benchmarks.servers import free_port, patient
from connectors.registry import SYSTEMS
from gateway.demo.cmms import DemoCmms
from gateway.model.connector import Connector, ConnectorSettings, unobserved
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    ConnectorError,
    OutcomeUnknown,
    PermissionDenied,
    RateLimited,
    Unavailable,
)
from gateway.model.reading import Reading, reading_key
from gateway.model.sample import Value
from tests.contract.faults import BOMB, FaultServer, Relay, Reply, answer, cut, cut_mid_body, endless, never

CONNECTION = "acme-1"
FAULTS: Mapping[str, type[ConnectorError]] = {
    "unauthorized": AuthRefused,
    "forbidden": PermissionDenied,
    "service_not_found": BadConfiguration,
    "rate_limited_seconds": RateLimited,
    "rate_limited_date": RateLimited,
    "unavailable_with_retry_after": RateLimited,
    "unavailable": Unavailable,
    "server_error": OutcomeUnknown,
    "unreachable": Unavailable,
    "name_not_resolved": Unavailable,
    "no_answer": OutcomeUnknown,
    "cut_after_send": OutcomeUnknown,
    "cut_mid_body": OutcomeUnknown,
    "web_page": AuthRefused,
    "redirect": AuthRefused,
    "not_json": OutcomeUnknown,
    "gzip_bomb": OutcomeUnknown,
    "endless_body": OutcomeUnknown,
    "gzip_cut": OutcomeUnknown,
}
# Where another fault (the time-out) would give the same error, the words tell them apart.
WORDS: Mapping[str, str] = {
    "gzip_bomb": "larger than",
    "endless_body": "larger than",
    "gzip_cut": "in the middle of its gzip data",
    "no_answer": "Timeout",
}
RETRY_AFTER_SECONDS = 7.0


@dataclass(slots=True)
class Calls:
    """An observer."""

    seen: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, operation: str, status_class: str) -> None:
        self.seen.append((operation, status_class))


class Harness(Protocol):
    """One connector's."""

    system: str
    exempt: Mapping[str, str]
    """Rules of the suite that do not apply, with the reason."""

    def running(self, dsn: str) -> AbstractAsyncContextManager[None]: ...

    def connector(self, *, timeout_seconds: float = 5.0, calls: Calls | None = None) -> Connector: ...

    def meter(self, number: int) -> str:
        """A meter that the system has."""
        ...

    def refused(self, at: datetime) -> Reading:
        """A reading that only the system itself can refuse, and then as a whole batch."""
        ...

    async def held(self) -> dict[tuple[str, datetime], list[Value]]:
        """Every value that the system took, by meter and time."""
        ...

    def failing(self, fault: str) -> AbstractAsyncContextManager[Connector]:
        """A connector whose next push meets the fault; its time-out is short."""
        ...


def reading(meter: str, at: datetime, value: Value, unit: str | None = None) -> Reading:
    return Reading(
        key=reading_key(CONNECTION, meter, at), meter=meter, window_start=at, value=value, unit=unit
    )


def recent(second: int = 0) -> datetime:
    return (
        datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        - timedelta(hours=3)
        + timedelta(seconds=second)
    )


def _settings(
    settings: Mapping[str, object],
    credentials: Mapping[str, str],
    timeout_seconds: float,
    calls: Calls | None,
) -> ConnectorSettings:
    return ConnectorSettings(
        connection=CONNECTION,
        hosting="cloud",
        settings=settings,
        credentials=credentials,
        timeout_seconds=timeout_seconds,
        observe=calls or unobserved,
    )


class MaintainXHarness:
    """The demonstration CMMS for what works, a raw server for what does not."""

    system = "maintainx"
    exempt: Mapping[str, str] = dict.fromkeys(
        ("repeat_is_duplicate", "change_is_accepted"), "the system has no deduplication"
    )
    key = "contract-suite-key"

    @asynccontextmanager
    async def running(self, dsn: str) -> AsyncIterator[None]:
        async with DemoCmms(
            api_key=self.key, meters=[f"pump-{number} temperature" for number in range(400)]
        ) as self.cmms:
            self.cmms.switches.rate_limit = 10_000
            yield

    def connector(
        self, *, timeout_seconds: float = 5.0, calls: Calls | None = None, url: str | None = None
    ) -> Connector:
        return SYSTEMS[self.system].build(
            _settings({"base_url": url or self.cmms.url}, {"api_key": self.key}, timeout_seconds, calls)
        )

    def meter(self, number: int) -> str:
        return str(1001 + number)

    def refused(self, at: datetime) -> Reading:
        return reading("999999", at, 1.0)

    async def held(self) -> dict[tuple[str, datetime], list[Value]]:
        return {
            (str(meter.id), at): list(values)
            for meter in self.cmms.meters.values()
            for at, values in meter.readings.items()
        }

    @asynccontextmanager
    async def failing(self, fault: str) -> AsyncIterator[Connector]:
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(
                FaultServer(on_get=answer("200 OK", b'{"meters": []}'), on_other=http_reply(fault))
            )
            connector = SYSTEMS[self.system].build(
                _settings({"base_url": server.url}, {"api_key": secrets.token_hex(8)}, 1.0, None)
            )
            stack.push_async_callback(connector.close)
            if fault in ("unreachable", "name_not_resolved"):
                url = (
                    f"http://127.0.0.1:{free_port()}"
                    if fault == "unreachable"
                    else "https://does-not-exist.invalid"
                )
                connector = SYSTEMS[self.system].build(
                    _settings({"base_url": url}, {"api_key": "k"}, 1.0, None)
                )
                stack.push_async_callback(connector.close)
            yield connector


def http_reply(fault: str) -> Reply:
    replies: dict[str, Reply] = {
        "unauthorized": answer("401 Unauthorized"),
        "forbidden": answer("403 Forbidden", b'{"errors": [{"error": "not allowed"}]}'),
        "service_not_found": answer("404 Not Found", b"<html>no such page</html>", content_type="text/html"),
        "rate_limited_seconds": answer(
            "429 Too Many Requests", b'{"error": "slow"}', headers="Retry-After: 7\r\n"
        ),
        "rate_limited_date": answer(
            "429 Too Many Requests",
            b'{"error": "slow"}',
            headers="Retry-After: Mon, 02 Nov 2026 10:00:07 GMT\r\n",
        ),
        "unavailable_with_retry_after": answer("503 Service Unavailable", headers="Retry-After: 7\r\n"),
        "unavailable": answer(
            "503 Service Unavailable", b"<html>maintenance</html>", content_type="text/html"
        ),
        "server_error": answer("500 Internal Server Error", b'{"error": "boom"}'),
        "no_answer": never,
        "cut_after_send": cut,
        "cut_mid_body": cut_mid_body,
        "web_page": answer(
            "200 OK", b"<!doctype html><title>Log in</title>", content_type="text/html; charset=utf-8"
        ),
        "redirect": answer("302 Found", headers="Location: /login\r\n"),
        "not_json": answer("201 Created", b'{"half": '),
        "gzip_bomb": answer("201 Created", BOMB, headers="Content-Encoding: gzip\r\n"),
        "endless_body": endless,
        "gzip_cut": answer("201 Created", BOMB[:1000], headers="Content-Encoding: gzip\r\n"),
    }
    return replies.get(fault, never)


_GUEST = """
do $$ begin create role guest login password 'guest'; exception when duplicate_object then null; end $$;
grant usage on schema public to guest"""
_WAIT_UNTIL_BLOCKED = """
do $$ begin
    while not exists (select from pg_stat_activity where wait_event_type = 'Lock' and query like '%insert into%') loop
        perform pg_sleep(0.01), pg_stat_clear_snapshot();
    end loop;
end $$"""
_NO_HTTP = "it speaks no HTTP"


class PostgresHarness:
    """A real server; sessions are cut through a relay, time-outs come from a lock."""

    system = "postgres"
    exempt: Mapping[str, str] = {
        **dict.fromkeys(
            (
                "rate_limited_seconds",
                "rate_limited_date",
                "unavailable_with_retry_after",
                "server_error",
                "cut_mid_body",
            ),
            _NO_HTTP,
        ),
        **dict.fromkeys(
            ("web_page", "redirect", "not_json", "gzip_bomb", "gzip_cut", "endless_body"), _NO_HTTP
        ),
    }

    @asynccontextmanager
    async def running(self, dsn: str) -> AsyncIterator[None]:
        self.dsn, self.table = dsn, f"reading_{secrets.token_hex(4)}"
        self.owner = await asyncpg.connect(dsn)
        try:
            connector = self.connector()
            await connector.probe()
            await connector.close()
            await self.owner.execute(
                f"alter table {self.table} add constraint believable check (value < 1000000 or value is null)"
            )
            yield
        finally:
            await self.owner.close()

    def connector(self, *, timeout_seconds: float = 5.0, calls: Calls | None = None) -> Connector:
        return self._build(self.dsn, {"table": self.table}, timeout_seconds, calls)

    def _build(
        self,
        dsn: str,
        settings: Mapping[str, object],
        timeout_seconds: float = 1.0,
        calls: Calls | None = None,
    ) -> Connector:
        return SYSTEMS[self.system].build(_settings(settings, {"dsn": dsn}, timeout_seconds, calls))

    def meter(self, number: int) -> str:
        return f"meter-{number}"

    def refused(self, at: datetime) -> Reading:
        return reading("unbelievable", at, 2_000_000.0)

    async def held(self) -> dict[tuple[str, datetime], list[Value]]:
        rows = await self.owner.fetch(f"select meter, window_start, value, text_value from {self.table}")
        return {
            (row["meter"], row["window_start"]): [
                row["value"] if row["value"] is not None else row["text_value"]
            ]
            for row in rows
        }

    @asynccontextmanager
    async def failing(self, fault: str) -> AsyncIterator[Connector]:
        async with AsyncExitStack() as stack:
            dsn, settings = self.dsn, {"table": self.table}
            address = urlsplit(self.dsn)
            match fault:
                case "unauthorized":
                    dsn = self.dsn.replace(":not-a-secret@", ":wrong@")
                case "forbidden":
                    await self.owner.execute(_GUEST)
                    dsn = f"postgresql://guest:guest@127.0.0.1:{address.port}/postgres"
                case "service_not_found":
                    dsn = self.dsn.removesuffix("postgres") + "no_such_database"
                case "unreachable":
                    dsn = f"postgresql://owner:x@127.0.0.1:{free_port()}/postgres"
                case "name_not_resolved":
                    dsn = "postgresql://owner:x@does-not-exist.invalid/postgres"
                case "unavailable":
                    await self.owner.execute("alter database postgres set default_transaction_read_only = on")
                    stack.push_async_callback(
                        self.owner.execute, "alter database postgres reset default_transaction_read_only"
                    )
                case "no_answer":
                    await stack.enter_async_context(self._locked())
                case "cut_after_send":
                    await stack.enter_async_context(self._locked())
                    relay = await stack.enter_async_context(Relay(address.port or 5432))
                    dsn = f"postgresql://owner:not-a-secret@127.0.0.1:{relay.port}/postgres"
                    cutter = asyncio.create_task(self._cut_when_blocked(relay))
                    stack.push_async_callback(asyncio.wait_for, cutter, 5)
                case _:
                    raise AssertionError(fault)
            connector = self._build(dsn, settings, 10.0 if fault == "cut_after_send" else 1.0)
            stack.push_async_callback(connector.close)
            yield connector

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        async with self.owner.transaction():
            await self.owner.execute(f"lock table {self.table} in exclusive mode")
            yield

    async def _cut_when_blocked(self, relay: Relay) -> None:
        watcher = await asyncpg.connect(self.dsn)
        try:
            async with patient(5):
                await watcher.execute(_WAIT_UNTIL_BLOCKED)
        finally:
            await watcher.close()
        relay.cut()
