"""Embedded mode: a broker and a PostgreSQL of our own in a data directory, for a laptop or a small site."""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from gateway.embedded.broker import choose_broker
from gateway.embedded.postgres import PostgresServer, write_secret
from gateway.embedded.supervisor import Supervisor
from gateway.model.errors import ConfigError

DSN_FILE, BROKER_FILE = "database.dsn", "broker.url"
"""In the data directory: where the servers are, written at each start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """The servers that run. `failed` resolves when one of them cannot be kept running."""

    dsn: str
    broker_url: str
    broker: str
    security_key: str
    failed: asyncio.Future[None]

    async def guard(self, work: Coroutine[None, None, None]) -> None:
        """Runs the work. Raises ServerFailed, after cancelling the work, when a server cannot be kept
        running.
        """
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self.failed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        if self.failed.done():
            self.failed.result()
        task.result()


@asynccontextmanager
async def embedded(data_dir: Path, log: FilteringBoundLogger) -> AsyncIterator[Embedded]:
    """Starts both servers, keeps them running, and stops both in the end. Their data stays in `data_dir`.

    Raises ConfigError when the directory cannot be used or belongs to a gateway that runs.
    """
    directory = data_dir.absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--data-dir {directory}: {error.strerror}; name a directory that can be written"
        ) from error
    async with AsyncExitStack() as stack:
        stack.enter_context(_locked(directory))
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        postgres = PostgresServer(directory / "postgres")
        stack.callback(postgres.forget)
        broker = choose_broker(directory / "broker")
        for server in (postgres, broker):
            await stack.enter_async_context(Supervisor(server, log, failed).running())
        dsn = await postgres.prepared("fieldgate")
        # by these a configuration, and with it every other command, names servers whose ports may change
        write_secret(directory / DSN_FILE, dsn)
        write_secret(directory / BROKER_FILE, broker.url)
        yield Embedded(
            dsn=dsn,
            broker_url=broker.url,
            broker=broker.name,
            security_key=_security_key(directory / "security.key"),
            failed=failed,
        )


def _locked(directory: Path) -> _Lock:
    return _Lock(directory / "lock")


class _Lock:
    """One gateway for a data directory. The lock ends with the process, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1

    def __enter__(self) -> None:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise ConfigError(
                f"--data-dir {self._path.parent}: another gateway runs on it; stop that one, or name another"
                " directory"
            ) from None

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def _security_key(path: Path) -> str:
    """Made at the first start, for this directory only."""
    if not path.exists():
        write_secret(path, secrets.token_urlsafe(32))
    return path.read_text()
