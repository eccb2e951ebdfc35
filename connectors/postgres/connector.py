"""Delivers readings into one table by a keyed upsert: a repeat changes nothing, so each reading is there
exactly once; reads any tables and views back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import asyncpg

from connectors.kit.bisect import push_bisecting
from connectors.kit.manifest import load_manifest
from connectors.kit.settings import parse
from connectors.postgres.errors import connecting, executing
from connectors.postgres.mapping import (
    EXISTS,
    HAS_COLUMN,
    TableRow,
    columns,
    creations,
    statements,
    to_row,
    to_value,
)
from connectors.postgres.reader import Tables
from connectors.postgres.session import open_session, tls_of
from connectors.postgres.settings import PostgresCredentials, PostgresSettings
from gateway.model.connector import Capabilities, ConnectorSettings, ProbeResult, RemoteReading
from gateway.model.dsn import parse_dsn
from gateway.model.errors import (
    BadConfiguration,
    ConnectorError,
    OutcomeUnknown,
    PermissionDenied,
    Unavailable,
)
from gateway.model.inbound import InboundPage, InboundStream, KeyPage
from gateway.model.outcome import Accepted, Duplicate, Outcome, Rejected, Superseded
from gateway.model.reading import Batch, Reading

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Session = PoolConnectionProxy[asyncpg.Record]

MANIFEST = load_manifest("connectors.postgres")
ResultT = TypeVar("ResultT")


class PostgresConnector:
    """One table in one database. Sessions are opened when first needed and replaced when they break."""

    def __init__(self, built_from: ConnectorSettings) -> None:
        """Raises BadConfiguration; opens nothing."""
        settings = parse(PostgresSettings, built_from.settings, what="settings")
        credentials = parse(PostgresCredentials, built_from.credentials, what="credentials")
        self._address = parse_dsn(credentials.dsn.get_secret_value())
        self._reach = built_from.credentials_reach
        self._tls = tls_of(self._address, settings.ca_file, self._reach)
        self._settings = settings
        self._connection = built_from.connection
        self._timeout_seconds = built_from.timeout_seconds
        self._observe = built_from.observe
        self._positioned = False
        self._statements = statements(settings.schema_name, settings.table or "", journal=settings.journal)
        self._tables = Tables(settings.streams, self._rows)
        self._capabilities = replace(MANIFEST.capabilities, max_items=settings.max_items)
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._table_is_ready = False
        self._opening = asyncio.Lock()

    @property
    def capabilities(self) -> Capabilities:
        """The manifest's, with `max_items` from the settings; whether the table keeps the latest is known
        once it was looked at.
        """
        return self._capabilities

    async def probe(self) -> ProbeResult:
        """Logs in, makes the table where allowed, and asks for its columns and the role's rights; touches no
        row.
        """
        return await self._observed("probe", self._probe())

    async def push(self, batch: Batch) -> Sequence[Outcome]:
        """One statement. Accepted: inserted or changed. Duplicate: the same value was there. Superseded: a
        row of a later position is there. Rows that PostgreSQL refuses are isolated and Rejected.
        """
        if not batch.readings:
            return []
        return await self._observed("push", self._push(batch))

    async def find(self, readings: Sequence[Reading]) -> Mapping[str, RemoteReading]:
        """The rows of these keys."""
        return await self._observed("find", self._find(readings)) if readings else {}

    @property
    def inbound(self) -> Sequence[InboundStream]:
        """The tables and views of `settings.streams`."""
        return self._tables.inbound

    async def remote_now(self, stream: str) -> datetime:
        """Up to when everything is visible: the begin of the oldest transaction that
        may still stamp a row.
        """
        return await self._observed("pull", self._tables.settled(stream))

    async def pull(
        self, stream: str, since: datetime | None, until: datetime, cursor: str | None = None
    ) -> InboundPage:
        """Ascending by the time of change and the key."""
        return await self._observed("pull", self._tables.pull(stream, since, until, cursor))

    async def pull_open(self, stream: str, cursor: str | None = None) -> InboundPage:
        """What `progress` does not call closed, by key."""
        return await self._observed("pull", self._tables.pull_open(stream, cursor))

    async def keys(self, stream: str, cursor: str | None = None) -> KeyPage:
        """By key."""
        return await self._observed("pull", self._tables.keys(stream, cursor))

    async def close(self) -> None:
        """Ends the sessions; the connector opens new ones if it is used again."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()

    async def _observed(self, operation: str, call: Awaitable[ResultT]) -> ResultT:
        try:
            result = await call
        except (OutcomeUnknown, Unavailable):
            self._observe(operation, "none")
            raise
        except ConnectorError:
            self._observe(operation, "refused")
            raise
        self._observe(operation, "ok")
        return result

    async def _rows(self, query: str, arguments: Sequence[object]) -> Sequence[Sequence[object]]:
        """Of a statement that only reads."""
        async with self._session(writes=False) as session:
            with executing(harmless=True):
                return [tuple(row) for row in await session.fetch(query, *arguments)]

    async def _probe(self) -> ProbeResult:
        if self._settings.table is None:
            await self._rows("select 1", ())
            return self._health("nothing is written")
        async with self._session() as session:
            with executing(harmless=True):
                row = await session.fetchrow(self._statements.probe, self._statements.table)
                if row is None:
                    raise Unavailable("PostgreSQL gave no answer to the probe")
                database, read_only, may_write = row
        if read_only:
            raise Unavailable("PostgreSQL is read-only (a standby?)")
        if not may_write:
            raise PermissionDenied(
                f"the role may not select, insert and update {self._statements.table}: grant it"
            )
        return replace(self._health(f"table {self._statements.table}"), former_account=database)

    def _health(self, detail: str) -> ProbeResult:
        at = self._address
        return ProbeResult(account=f"{at.user}@{at.host}:{at.port}/{at.database}", detail=detail)

    async def _push(self, batch: Batch) -> list[Outcome]:
        readings = batch.readings
        outcomes: dict[str, Outcome] = {}
        rows: dict[str, TableRow] = {}
        for reading in readings:
            match to_row(reading):
                case Rejected() as rejected:
                    outcomes[reading.key] = rejected
                case TableRow() as row:
                    rows[reading.key] = row
        sendable = [reading for reading in readings if reading.key in rows]

        async def send(part: Sequence[Reading]) -> Sequence[Outcome]:
            return await self._upsert([rows[reading.key] for reading in part], batch.position)

        if sendable:
            sent, _ = await push_bisecting(sendable, send, max_calls=64)
            outcomes.update((reading.key, outcome) for reading, outcome in zip(sendable, sent, strict=True))
        return [outcomes[reading.key] for reading in readings]

    async def _upsert(self, rows: Sequence[TableRow], position: int) -> list[Outcome]:
        """One statement, one transaction. A key that stands twice is written once, with the later value."""
        distinct = {row.key: row for row in rows}
        async with self._session() as session:
            try:
                given = columns(self._connection, list(distinct.values()))
                if self._positioned:
                    given = (*given, position)
                with executing():
                    applied = await session.fetch(self._statements.upsert, *given)
            except BadConfiguration:
                self._table_is_ready = False
                raise
            changed: dict[str, bool] = {record[0]: record[1] for record in applied}
            missing = [row for row in distinct.values() if row.key not in changed]
            later = await self._later(session, missing) if missing and self._positioned else {}

        def outcome(row: TableRow) -> Outcome:
            if row.key in later:
                return Superseded(position=later[row.key])
            return Accepted() if changed.get(row.key) else Duplicate()

        return [outcome(row) for row in rows]

    async def _later(self, session: Session, rows: Sequence[TableRow]) -> dict[str, int | None]:
        """The positions of what stands in place of these rows, which are earlier."""
        with executing():
            held = await session.fetch(
                self._statements.later,
                self._connection,
                [row.meter for row in rows],
                [row.window_start for row in rows],
                [row.key for row in rows],
            )
        positions: dict[str, int] = {record[0]: record[1] for record in held}
        return {row.key: positions.get(row.key) for row in rows}

    async def _find(self, readings: Sequence[Reading]) -> Mapping[str, RemoteReading]:
        rows = [row for row in map(to_row, readings) if isinstance(row, TableRow)]
        async with self._session() as session:
            with executing(harmless=True):
                found = await session.fetch(
                    self._statements.find,
                    self._connection,
                    [row.meter for row in rows],
                    [row.window_start for row in rows],
                    [row.key for row in rows],
                )
                return {
                    key: RemoteReading(value=to_value(value, text), at=at, remote_id=key)
                    for key, value, text, at in found
                }

    @asynccontextmanager
    async def _session(self, *, writes: bool = True) -> AsyncIterator[Session]:
        if writes and self._settings.table is None:
            raise BadConfiguration("settings.table is null: this connection reads, and writes nothing")
        with connecting():
            pool = await self._open()
            acquired = pool.acquire(timeout=self._timeout_seconds)
            session = await acquired
        try:
            if writes and not self._table_is_ready:
                await self._ensure_table(session)
            yield session
        finally:
            # What the statement said stands, whatever becomes of its session afterwards: an error here would
            # say that nothing was taken when everything was. A session that cannot be reset is closed by the
            # pool.
            with suppress(ConnectorError), connecting():
                await pool.release(session)

    async def _open(self) -> asyncpg.Pool[asyncpg.Record]:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    connect=partial(open_session, self._address, self._tls, self._reach),
                    min_size=0,
                    max_size=2,
                    timeout=self._timeout_seconds,
                    command_timeout=self._timeout_seconds,
                    max_inactive_connection_lifetime=300,
                    server_settings={
                        "application_name": self._address.application_name or "fieldgate",
                        "timezone": "UTC",
                        "jit": "off",
                    },
                )
            return self._pool

    async def _ensure_table(self, session: Session) -> None:
        """Makes what is missing, one connector at a time: `create table if not exists` alone would race and
        would need rights it should not.
        """
        schema, table, column = (
            self._settings.schema_name,
            self._settings.table or "",
            self._settings.position_column,
        )
        journal = self._settings.journal
        if self._settings.create_table:
            wanted = creations(schema, table, journal=journal, position=column)
            with executing(harmless=True):
                for name, create in wanted:
                    if not await self._exists(session, name):
                        async with session.transaction():
                            await session.execute(
                                "select pg_advisory_xact_lock(hashtext('fieldgate.create_table'))"
                            )
                            if not await self._exists(session, name):
                                await session.execute(create)
        with executing(harmless=True):
            self._positioned = column is not None and bool(
                await session.fetchval(HAS_COLUMN, schema, table, column)
            )
        self._statements = statements(
            schema, table, journal=journal, position=column if self._positioned else None
        )
        self._capabilities = replace(self._capabilities, keeps_latest=self._positioned)
        self._table_is_ready = True

    async def _exists(self, session: Session, table: str) -> bool:
        return bool(await session.fetchval(EXISTS, self._settings.schema_name, table))


def build(built_from: ConnectorSettings) -> PostgresConnector:
    """The registry's way to a connector. Raises BadConfiguration."""
    return PostgresConnector(built_from)
