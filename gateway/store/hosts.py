"""The hosts of the gateway's own database: which of them to open a session on.

asyncpg asks the hosts one after the other within one time-out, so a machine that is switched off uses up the
time of all. Here each has its share, and the one that answered last is asked first.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, TypeAlias

import asyncpg
import structlog
from asyncpg.connect_utils import SessionAttribute

from gateway.model.dsn import each_host

log = structlog.get_logger(__name__)

Session: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

TIMELINE = "select ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int"


class DatabaseHosts:
    """Opens sessions on the one that takes writes. A primary that was replaced is not used again by whoever
    has seen its successor: a promotion begins a timeline, and of two primaries the later one counts.
    """

    def __init__(self, dsn: str, *, silent_seconds: float) -> None:
        """`silent_seconds`: after which a server that acknowledges nothing is given up."""
        self._dsns = list(each_host(dsn))
        self._silent_milliseconds = max(1, int(silent_seconds * 1000))
        self._timeline = 0

    async def connect(self, dsn: str | None = None, *, timeout: float = 10.0, **options: Any) -> Session:
        """As `asyncpg.connect`, whose errors it raises: those of the last host where none could be used."""
        if len(self._dsns) == 1:
            return await self._open(dsn or self._dsns[0], timeout, options)
        if self._timeline == 0:
            await self._look_around(timeout / 2, options)
        failure: Exception = OSError("no host")
        for host in list(self._dsns):
            try:
                session = await self._open(host, timeout / len(self._dsns), options)
            except (
                OSError,
                asyncpg.CannotConnectNowError,
                asyncpg.AdminShutdownError,
                asyncpg.TooManyConnectionsError,
                asyncpg.PostgresConnectionError,
                asyncpg.InternalClientError,  # it takes no writes
            ) as error:
                failure = error
                continue
            timeline = await _timeline(session)
            if 0 < timeline < self._timeline:
                session.terminate()
                log.error(
                    "store.old_primary_refused",
                    timeline=timeline,
                    current=self._timeline,
                    advice=(
                        "a server that was replaced takes writes again: stop it, and let it follow the new"
                        " primary"
                    ),
                )
                failure = OSError(
                    f"the server was replaced: its timeline is {timeline}, {self._timeline} is in use"
                )
                continue
            self._timeline = max(timeline, self._timeline)
            self._dsns.remove(host)
            self._dsns.insert(0, host)
            return session
        raise failure

    async def _look_around(self, seconds: float, options: dict[str, Any]) -> None:
        """Before the first session: of several that take writes, which was promoted last."""

        async def ask(dsn: str) -> int:
            try:
                session = await self._open(dsn, seconds, options)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                return 0  # what is wrong with it is told where a session is opened
            try:
                return await _timeline(session)
            finally:
                session.terminate()

        self._timeline = max(await asyncio.gather(*(ask(dsn) for dsn in self._dsns)))

    async def _open(self, dsn: str, seconds: float, options: dict[str, Any]) -> Session:
        session: Session = await asyncpg.connect(
            dsn,
            timeout=seconds,
            # a primary that was demoted takes nothing in
            target_session_attrs=SessionAttribute.read_write,
            **options,
        )
        self._bound_silence(session)
        return session

    def _bound_silence(self, session: Session) -> None:
        """A server whose machine is switched off says nothing: without this a statement waits for its own
        time-out.
        """
        if not hasattr(socket, "TCP_USER_TIMEOUT"):
            return
        transport = session._transport  # type: ignore[attr-defined]  # asyncpg shows its socket nowhere else
        shown = transport.get_extra_info("socket")
        if shown is None or shown.family == socket.AF_UNIX:
            return
        with socket.socket(fileno=socket.dup(shown.fileno())) as same:
            same.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._silent_milliseconds)
            same.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            seconds = max(1, self._silent_milliseconds // 2000)
            same.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, seconds)
            same.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)


async def _timeline(session: Session) -> int:
    """Of the server's log; 0 where it does not say."""
    try:
        timeline: int = await session.fetchval(TIMELINE)
    except asyncpg.PostgresError:
        return 0
    return timeline
