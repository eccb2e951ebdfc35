"""The pool: connections, transactions, and the one place where asyncpg's errors become ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg
import orjson
from asyncpg.pool import PoolConnectionProxy

from gateway.model.dsn import fault_of
from gateway.model.errors import (
    ConfigError,
    CustomersLeft,
    LeaseLost,
    NotExceeded,
    StoredAlready,
    StoreError,
    StoreForbidden,
    StoreRejected,
    StoreUnavailable,
)
from gateway.store.hosts import DatabaseHosts
from gateway.store.turns import CustomerTurns

Record: TypeAlias = asyncpg.Record
Session: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Connection: TypeAlias = "Session | PoolConnectionProxy[asyncpg.Record]"

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
}

LEASE_SECONDS = 15.0
"""The default of `sync.lease`."""

LEASE_LOST = "FG001"
"""Raised by statements of ours that find in their last step that the lease is another's (`lease_lost`)."""

CUSTOMER_LEFT = "FG003"
"""Raised where something would begin for a customer that has moved to another gateway."""

NOT_EXCEEDED = "FG002"
"""Raised by `add_excess`, for what is not open."""

OWNER_WANTED = (
    "The role of database.dsn has to own the gateway's database and what is in it: name that role, or make"
    " this one the owner (`alter database ... owner to ...`, and `reassign owned by ... to ...` in it)"
)

WAIT_SECONDS = 30.0
"""For a session."""

CONNECT_SECONDS = 10.0
"""For all the hosts together."""

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
_READ_ONLY = asyncpg.ReadOnlySQLTransactionError


@contextmanager
def converted() -> Iterator[None]:
    """asyncpg and socket errors leave as StoreUnavailable (try again), StoreRejected (this data never;
    StoredAlready and CustomersLeft are two), LeaseLost, NotExceeded or StoreError.
    """
    try:
        yield
    except asyncpg.UniqueViolationError as error:
        raise StoredAlready(f"PostgreSQL refuses the data: {error}") from error
    except (
        asyncpg.DataError,
        asyncpg.IntegrityConstraintViolationError,
        asyncpg.ProgramLimitExceededError,
    ) as error:
        raise StoreRejected(f"PostgreSQL refuses the data: {error}") from error
    except _UNAVAILABLE as error:
        raise StoreUnavailable(f"PostgreSQL is unavailable: {type(error).__name__}: {error}") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise StoreForbidden(f"PostgreSQL: {error}. {OWNER_WANTED}") from error
    except asyncpg.PostgresError as error:
        if error.sqlstate == LEASE_LOST:
            raise LeaseLost(str(error)) from None
        if error.sqlstate == CUSTOMER_LEFT:
            raise CustomersLeft(frozenset(), str(error)) from None
        if error.sqlstate == NOT_EXCEEDED:
            raise NotExceeded(str(error)) from None
        raise StoreError(f"PostgreSQL: {type(error).__name__}: {error}") from error


class Database:
    """A pool of sessions with the settings that every query here counts on."""

    def __init__(
        self, pool: asyncpg.Pool[asyncpg.Record], hosts: DatabaseHosts, name: str, silent_seconds: float
    ) -> None:
        self._pool = pool
        self._hosts = hosts
        self._name = name
        self._silent_seconds = silent_seconds
        self._turns = CustomerTurns(max(1, pool.get_max_size() // 2))

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        size: int,
        application_name: str = "fieldgate",
        lease_seconds: float = LEASE_SECONDS,
    ) -> Database:
        """Connects once to prove that it can. Raises ConfigError for a DSN, user, password or database that
        cannot work. `lease_seconds` bounds how long a process that is frozen may hold a transaction.
        """
        if (fault := fault_of(dsn)) is not None:
            raise ConfigError(f"database.dsn: {fault}")
        hosts = DatabaseHosts(dsn, silent_seconds=lease_seconds / 3)
        try:
            with converted():
                pool = await asyncpg.create_pool(
                    dsn,
                    connect=hosts.connect,
                    min_size=1,
                    max_size=size,
                    command_timeout=60,
                    timeout=CONNECT_SECONDS,
                    max_inactive_connection_lifetime=300,
                    server_settings={
                        **_SESSION,
                        **_limits(lease_seconds / 3),
                        "application_name": application_name,
                    },
                    init=_prepare_session,
                    reset=_leave,
                )
        except StoreError as error:
            cause = error.__cause__
            if isinstance(cause, asyncpg.ClientConfigurationError):  # its text repeats the address
                raise _unusable(cause) from None
            if isinstance(error, StoreUnavailable):
                raise
            raise ConfigError(
                f"database.dsn: {cause}; give a user, password, database and parameters that the server takes"
            ) from error
        except (ValueError, TypeError, AttributeError) as error:  # of a parameter that the driver trips over
            raise _unusable(error) from None
        return cls(pool, hosts, application_name, lease_seconds / 3)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A session without a transaction."""
        with converted():
            async with (
                self._dropping_read_only(),
                self._turns.one(WAIT_SECONDS),
                self._pool.acquire(timeout=WAIT_SECONDS) as connection,
            ):
                yield connection

    async def fetch(self, query: str, *arguments: object) -> list[Record]:
        """The rows of one statement, without a transaction."""
        async with self.connection() as connection:
            return await connection.fetch(query, *arguments)

    async def fetchrow(self, query: str, *arguments: object) -> Record | None:
        """The first row of one statement."""
        async with self.connection() as connection:
            return await connection.fetchrow(query, *arguments)

    async def fetchval(self, query: str, *arguments: object) -> Any:
        """The first value of the first row of one statement."""
        async with self.connection() as connection:
            return await connection.fetchval(query, *arguments)

    async def execute(self, query: str, *arguments: object) -> str:
        """The command tag of one statement."""
        async with self.connection() as connection:
            return await connection.execute(query, *arguments)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A READ COMMITTED transaction: committed when the block ends, rolled back when it raises."""
        with converted():
            async with (
                self._dropping_read_only(),
                self._turns.one(WAIT_SECONDS),
                self._pool.acquire(timeout=WAIT_SECONDS) as connection,
                connection.transaction(),
            ):
                yield connection

    @asynccontextmanager
    async def pinned(self, *, silent_seconds: float | None = None) -> AsyncIterator[Session]:
        """A session outside the pool, for what belongs to a session: it waits for none, and none waits for
        it. The server ends it when its client was silent for about `silent_seconds`, by default a third of
        the lease.
        """
        with converted():
            settings = {
                **_SESSION,
                **_limits(silent_seconds or self._silent_seconds),
                "application_name": self._name,
            }
            session: Session = await self._hosts.connect(
                timeout=CONNECT_SECONDS, command_timeout=60, server_settings=settings
            )
            try:
                await _prepare_session(session)
                yield session
            finally:
                session.terminate()

    @asynccontextmanager
    async def _dropping_read_only(self) -> AsyncIterator[None]:
        """A session that was made while the server, or its database, was read-only may stay so for good:
        after one refusal no session is used again.
        """
        try:
            yield
        except _READ_ONLY:
            await self._pool.expire_connections()
            raise

    async def is_ready(self) -> bool:
        """Whether a query answers within two seconds, on a session that may write."""
        try:
            async with asyncio.timeout(2), self.connection() as connection:
                writable = bool(
                    await connection.fetchval("select current_setting('transaction_read_only') = 'off'")
                )
        except (StoreError, TimeoutError):
            return False
        if not writable:
            await self._pool.expire_connections()
        return writable

    async def close(self) -> None:
        """Waits a moment for the sessions in use, then ends them."""
        try:
            async with asyncio.timeout(5):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()


def _limits(silent_seconds: float) -> dict[str, str]:
    """What the server ends for us when this process, or its machine, stands still in the middle of a
    transaction: its locks are everybody's. A third of the lease in the pool, so that it is over before others
    take what was leased.

    Not `transaction_timeout`: a statement that works is bounded by its own time-out, and moving a large table
    may take an hour.
    """
    milliseconds = max(1, int(silent_seconds * 1000))
    return {
        "idle_in_transaction_session_timeout": f"{milliseconds}ms",
        "tcp_user_timeout": f"{milliseconds}ms",  # also where the answer is not read
        "tcp_keepalives_idle": str(max(1, milliseconds // 2000)),
        "tcp_keepalives_interval": "1",
        "tcp_keepalives_count": str(max(1, milliseconds // 2000)),
    }


def _unusable(error: Exception) -> ConfigError:
    return ConfigError(
        f"database.dsn: cannot be used ({type(error).__name__}); expected"
        " postgresql://user:password@host:5432/database"
    )


async def _prepare_session(connection: Session) -> None:
    # The locks of a process that was killed end with its statement at the latest, and so within a second. A
    # server that cannot look (on Windows) refuses to, and ends the statement first.
    with suppress(asyncpg.InvalidParameterValueError):
        await connection.execute("set client_connection_check_interval = '1s'")
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=_encode, decoder=_decode, format="text"
    )


async def _leave(_: Session) -> None:
    """Nothing to undo after a use: what we set and lock ends with its transaction (a test holds us to it),
    and an open one asyncpg has already rolled back.

    Its own reset is a round trip after every use.
    """


@dataclass(frozen=True, slots=True)
class UnreadableJson:
    """Stands for JSON that PostgreSQL holds and Python does not (nested too deep): its
    row costs only itself.
    """


def _decode(text: str) -> object:
    try:
        return orjson.loads(text)
    except ValueError:
        pass
    try:
        return json.loads(text)  # integers of any length
    except (ValueError, RecursionError):
        return UnreadableJson()


def _encode(value: object) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value)  # integers beyond 64 bits


async def create_database(database: Database, name: str) -> None:
    """Creates the database `name` (letters and underscores) on the server of
    `database`, unless it is there.
    """
    async with database.connection() as connection:
        if not await connection.fetchval("select true from pg_database where datname = $1", name):
            await connection.execute(f'create database "{name}"')
