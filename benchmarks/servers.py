"""Owns throw-away servers on loopback: a Mosquitto and a PostgreSQL, each in a directory of its own, each
killable and restartable.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import asyncpg

from gateway.embedded.postgres import STILL_ENDING, binaries

_initialising = threading.Lock()
_PROCESS_USERS = ("pgserver", "postgres", "nobody")

PATIENCE = 3.0
"""By which every deadline of a wait is multiplied. Such a deadline is no bar: it is only how long a failure takes
to show, and a machine that is three times slower must not fail for it. What is a bar of the product is asserted,
as such.
"""


# Below the ports that the kernel gives to connections: one of those could take a server's port before it listens, or
# while it is started again. No seed decides them, or several processes would meet at the same ports.
_ports = iter(random.SystemRandom().sample(range(10_000, 32_768), 22_768))


def free_port() -> int:
    """A TCP port on loopback that nobody listens on at this moment. A process gets each once."""
    for port in _ports:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


def patient(seconds: float) -> asyncio.Timeout:
    """A deadline for what is waited for in other ways than by `wait_until`: `async with patient(20): ...`."""
    return asyncio.timeout(seconds * PATIENCE)


async def wait_until(
    holds: Callable[[], Awaitable[bool]] | Callable[[], bool],
    *,
    seconds: float = 30.0,
    what: str,
    every: float = 0.05,
) -> None:
    """Polls until the condition holds. Raises TimeoutError that names `what` when it did not within
    `seconds`, times PATIENCE.
    """
    seconds *= PATIENCE
    deadline = time.monotonic() + seconds
    while True:
        outcome = holds()
        if outcome if isinstance(outcome, bool) else await outcome:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(every)


def accepts(port: int) -> bool:
    """Whether a TCP connection to the port is accepted."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


class Mosquitto:
    """A broker with queue limits that are out of the way. `persistent`: sessions and queues survive SIGTERM.
    `extra`: lines for its configuration.
    """

    def __init__(self, directory: Path, *, persistent: bool, anonymous: bool = True, extra: str = "") -> None:
        self.port = free_port()
        self.persistent = persistent
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        lines = [
            f"listener {self.port} 127.0.0.1",
            f"allow_anonymous {'true' if anonymous else 'false'}",
            "set_tcp_nodelay true",
            "max_queued_messages 0",
            "max_queued_bytes 0",
            "max_inflight_messages 0",
            f"persistence {'true' if persistent else 'false'}",
            f"persistence_location {directory}/",
            "log_type error",
            "log_type warning",
            f"log_dest file {directory}/mosquitto.log",
        ]
        if os.geteuid() == 0:
            lines.insert(0, "user root")
        (directory / "mosquitto.conf").write_text("\n".join([*lines, extra, ""]))

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        """As `broker.url` wants it."""
        return f"mqtt://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Returns when connections are accepted."""
        path = os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"
        binary = shutil.which("mosquitto", path=path)
        if binary is None:
            raise FileNotFoundError("mosquitto is not installed: `make packages` says how to get it")
        self._process = subprocess.Popen(
            [binary, "-c", str(self._directory / "mosquitto.conf")],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        await wait_until(lambda: accepts(self.port), what="mosquitto accepts connections")

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends it with the signal, and waits."""
        await end(self._process, number)
        self._process = None


class Postgres:
    """A PostgreSQL server from the wheel. Run as root, it gets a user of its own."""

    def __init__(self, directory: Path | None = None, **settings: str) -> None:
        self.port = free_port()
        self._root = Path(tempfile.mkdtemp(prefix="fg-pg-", dir=directory))
        self._data = self._root / "data"
        self._settings = {
            "shared_buffers": "256MB",
            "max_connections": "100",
            "max_wal_size": "4GB",
            "jit": "off",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.programs: Path | None = None
        """The directory of initdb and postgres, where they are not the wheel's."""

    @property
    def pid(self) -> int:
        """Of the postmaster that runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """What it writes, over all its starts."""
        return self._root / "log"

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self._data

    def dsn(self, database: str = "postgres") -> str:
        """Connects over TCP on loopback, as the superuser."""
        return f"postgresql://postgres:postgres@127.0.0.1:{self.port}/{database}"

    async def start(self, *, seconds: float = 120.0) -> None:
        """Initialises it at the first start; returns when a query is answered (crash recovery included)."""
        user = self.user()
        initdb, postgres = (
            binaries(user)
            if self.programs is None
            else (str(self.programs / "initdb"), str(self.programs / "postgres"))
        )
        if not (self._data / "PG_VERSION").exists():
            if user is not None:
                shutil.chown(self._root, user)
            await asyncio.to_thread(_initialise, initdb, self._data, user)
        await wait_until(lambda: self._runs(postgres, user), seconds=seconds, what="PostgreSQL answers")

    async def _runs(self, postgres: str, user: str | None) -> bool:
        """Whether a query is answered. Starts it, and again while backends of one that
        was killed still end.
        """
        if self._process is None:
            self._spawn(postgres, user)
        assert self._process is not None
        if self._process.poll() is not None:
            last = (self._root / "log").read_text(errors="replace")[-600:]
            if not any(sign in last for sign in STILL_ENDING):
                raise RuntimeError(f"PostgreSQL did not start: {last}")
            self._process = None
            return False
        return await self._answers()

    def _spawn(self, postgres: str, user: str | None) -> None:
        options = [part for key, value in self._settings.items() for part in ("-c", f"{key}={value}")]
        with (self._root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [postgres, "-D", str(self._data), "-k", str(self._root), "-p", str(self.port), "-c", "listen_addresses=127.0.0.1", *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True, user=user, extra_groups=[] if user else None,
            )  # fmt: skip

    async def create(self, database: str) -> str:
        """Makes an empty database; its DSN."""
        connection = await asyncpg.connect(self.dsn())
        try:
            await connection.execute(f'create database "{database}"')
        finally:
            await connection.close()
        return self.dsn(database)

    async def stop(self) -> None:
        """Fast shutdown; open sessions are ended."""
        await end(self._process, signal.SIGINT)
        self._process = None

    async def kill(self) -> None:
        """SIGKILL to the postmaster and every backend at once, as a power cut would."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
        await end(self._process, signal.SIGKILL)
        self._process = None

    def remove(self) -> None:
        """Deletes its files; it must be stopped."""
        shutil.rmtree(self._root, ignore_errors=True)

    async def _answers(self) -> bool:
        try:
            connection = await asyncpg.connect(self.dsn(), timeout=5)
        except (OSError, asyncpg.PostgresError, TimeoutError):
            return False
        await connection.close()
        return True

    @staticmethod
    def user() -> str | None:
        """As whom servers run when we are root; None: ourselves."""
        if os.geteuid() != 0:
            return None
        known = {entry.pw_name for entry in pwd.getpwall()}
        return next(name for name in _PROCESS_USERS if name in known)


@cache
def _initialised(initdb: str, folder: Path, user: str | None) -> Path:
    """A data directory that was never started, made once for the process: to copy takes a quarter of the time."""
    root = Path(tempfile.mkdtemp(prefix="fg-pg-made-", dir=folder))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    if user is not None:
        shutil.chown(root, user)
    options = ["-U", "postgres", "-E", "utf8", "--locale=C", "--auth=trust", "--no-sync"]
    _as_user([initdb, "-D", str(root / "data"), *options], user)
    return root / "data"


def _initialise(initdb: str, data: Path, user: str | None) -> None:
    with _initialising:
        made = _initialised(initdb, data.parents[1], user)
    _as_user(["cp", "-a", str(made), str(data)], user)


def _as_user(command: list[str], user: str | None) -> None:
    groups: list[int] | None = [] if user else None
    subprocess.run(command, check=True, capture_output=True, cwd="/", user=user, extra_groups=groups)


async def end(
    process: subprocess.Popen[bytes] | None, number: signal.Signals, *, seconds: float = 60.0
) -> int | None:
    """Signals a process that we started and waits for it; its exit code. What outlives `seconds`, times
    PATIENCE, is killed and reported.
    """
    seconds *= PATIENCE
    if process is None:
        return None
    if process.poll() is None:
        process.send_signal(number)
    try:
        return await asyncio.to_thread(process.wait, seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        await asyncio.to_thread(process.wait)
        raise TimeoutError(
            f"process {process.pid} did not end within {seconds:g} s of {number.name}"
        ) from None
