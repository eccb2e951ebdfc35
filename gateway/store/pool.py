"""The pool: connections, transactions, and the one place where asyncpg's errors become ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import asyncpg
import orjson
from asyncpg.pool import PoolConnectionProxy

from gateway.model.errors import ConfigError, StoreError, StoreRejected, StoreUnavailable

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

_SESSION = {
    "jit": "off",  # the recompute of due windows is 20 times slower with it
    "timezone": "UTC",
    # planning over a hundred daily partitions costs more than running
    "plan_cache_mode": "force_generic_plan",
    # Every query here goes by an index. A plan made while a day's partition was small must not read it whole
    # once it is large.
    "enable_seqscan": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    "idle_in_transaction_session_timeout": "60s",
    "tcp_user_timeout": "10s",
}

WAIT_SECONDS = 30.0
"""For a session."""

_UNAVAILABLE = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a session that dies just as a statement begins
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.OutOfMemoryError,
    asyncpg.DiskFullError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    OSError,
    TimeoutError,
)
_MISCONFIGURED = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidPasswordError,
    asyncpg.InvalidCatalogNameError,
)


@contextmanager
def converted() -> Iterator[None]:
    """asyncpg and socket errors leave as StoreUnavailable (try again), StoreRejected (this data never) or
    StoreError.
    """
    try:
        yield
    except (
        asyncpg.DataError,
        asyncpg.IntegrityConstraintViolationError,
        asyncpg.ProgramLimitExceededError,
    ) as error:
        raise StoreRejected(f"PostgreSQL refuses the data: {error}") from error
    except _UNAVAILABLE as error:
        raise StoreUnavailable(f"PostgreSQL is unavailable: {type(error).__name__}: {error}") from error
    except asyncpg.PostgresError as error:
        raise StoreError(f"PostgreSQL: {type(error).__name__}: {error}") from error


class Database:
    """A pool of sessions with the settings that every query here counts on."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    @classmethod
    async def open(cls, dsn: str, *, size: int, application_name: str = "fieldgate") -> Database:
        """Connects once to prove that it can. Raises ConfigError for a DSN, user, password or database that
        cannot work.
        """
        try:
            with converted():
                pool = await asyncpg.create_pool(
                    dsn,
                    min_size=1,
                    max_size=size,
                    command_timeout=60,
                    timeout=10,
                    max_inactive_connection_lifetime=300,
                    server_settings={**_SESSION, "application_name": application_name},
                    init=_prepare_session,
                    reset=_leave,
                )
        except StoreError as error:
            if isinstance(error.__cause__, _MISCONFIGURED):
                raise ConfigError(
                    f"database.dsn: {error.__cause__}; give a user, password and database that exist"
                ) from error
            raise
        except ValueError as error:
            raise ConfigError(f"database.dsn: {error}") from error
        return cls(pool)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A session without a transaction."""
        with converted():
            async with self._pool.acquire(timeout=WAIT_SECONDS) as connection:
                yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A READ COMMITTED transaction: committed when the block ends, rolled back when it raises."""
        with converted():
            async with self._pool.acquire(timeout=WAIT_SECONDS) as connection, connection.transaction():
                yield connection

    async def is_ready(self) -> bool:
        """Whether a query answers within two seconds."""
        try:
            async with asyncio.timeout(2), self.connection() as connection:
                return bool(await connection.fetchval("select true"))
        except (StoreError, TimeoutError):
            return False

    async def close(self) -> None:
        """Waits a moment for the sessions in use, then ends them."""
        try:
            async with asyncio.timeout(5):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()


async def _prepare_session(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=_encode, decoder=_decode, format="text"
    )


async def _leave(_: asyncpg.Connection[asyncpg.Record]) -> None:
    """Nothing to undo after a use: what we set and lock ends with its transaction (a test holds us to it),
    and an open one asyncpg has already rolled back.

    Its own reset is a round trip after every use.
    """


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for JSON that PostgreSQL holds and Python does not (nested too deep): its row costs only itself."""


def _decode(text: str) -> object:
    try:
        return orjson.loads(text)
    except ValueError:
        pass
    try:
        return json.loads(text)  # integers of any length
    except (ValueError, RecursionError):
        return Unreadable()


def _encode(value: object) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value)  # integers beyond 64 bits


async def create_database(database: Database, name: str) -> None:
    """Creates the database `name` (letters and underscores) on the server of `database`, unless it is there."""
    async with database.connection() as connection:
        if not await connection.fetchval("select true from pg_database where datname = $1", name):
            await connection.execute(f'create database "{name}"')
