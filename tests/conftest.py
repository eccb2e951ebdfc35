"""Real servers for tests: a PostgreSQL for the session with a migrated template, brokers for each test that
asks.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest
import structlog
from hypothesis import HealthCheck, settings

from benchmarks.daemon import Daemon
from benchmarks.servers import Mosquitto, Postgres, free_port, wait_until
from gateway.store.migrate import migrate
from gateway.store.pool import Database
from tests.fixtures import programs
from tests.fixtures.memory import in_memory

# A machine that is busy with something else makes examples slowly; that says nothing of the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# A suite that was started in the background ignores SIGINT, and so would every program that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

Daemon.launch = staticmethod(programs.popen)

# What is imported and collected stays to the end. Each collection of garbage among it looked through all of it again,
# which was a third of the time that collecting took, in each worker.
OFTEN = gc.get_threshold()
gc.set_threshold(0)


def pytest_collection_finish() -> None:
    """Garbage is collected from here on, among what the tests themselves make."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*OFTEN)


TEMPLATE = "fieldgate_template"
_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A command configures logging for its process, which here is that of every test after it."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def started_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Daemons are programs that are started, with all that a start is, instead of forks."""
    monkeypatch.setattr(Daemon, "launch", staticmethod(subprocess.Popen))


@pytest.fixture
def enterable() -> Iterator[Path]:
    """A folder that the account of an embedded PostgreSQL can enter, which pytest's own are not when root runs
    the tests.
    """
    folder = Path(tempfile.mkdtemp(prefix="fg-enterable-"))
    folder.chmod(0o711)
    yield folder
    # a server whose demonstration was killed may still be removing files of its own
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """One server for the session, with `TEMPLATE` migrated."""
    server = Postgres(in_memory(), fsync="off")
    asyncio.run(_prepare(server))
    yield server
    asyncio.run(server.stop())
    server.remove()


async def _prepare(server: Postgres) -> None:
    await server.start()
    database = await Database.open(await server.create(TEMPLATE), size=3)
    await migrate(database)
    await database.close()


@pytest.fixture
async def dsn(postgres_server: Postgres) -> AsyncIterator[str]:
    """A migrated, empty database of its own. It goes with the test: thousands of them would fill the machine."""
    name = f"test_{next(_numbers)}"
    await _administer(postgres_server, f"create database {name} template {TEMPLATE} strategy file_copy")
    yield postgres_server.dsn(name)
    await _administer(postgres_server, f"drop database {name} with (force)")


async def _administer(server: Postgres, statement: str) -> None:
    connection = await asyncpg.connect(server.dsn())
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    """A pool on `dsn`."""
    opened = await Database.open(dsn, size=8)
    yield opened
    await opened.close()


@pytest.fixture
async def empty_dsn(postgres_server: Postgres) -> str:
    """An empty database that nobody migrated: a sink, or a first start."""
    return await postgres_server.create(f"empty_{next(_numbers)}")


@pytest.fixture
async def make_postgres() -> AsyncIterator[Callable[..., Awaitable[Postgres]]]:
    """Starts servers of the test's own, to kill and start again; keywords are PostgreSQL settings. All end
    with the test.
    """
    async with AsyncExitStack() as stack:

        async def make(**settings: str) -> Postgres:
            server = Postgres(in_memory(), **settings)
            stack.callback(server.remove)
            stack.push_async_callback(server.stop)
            await server.start()
            return server

        yield make


@pytest.fixture
async def make_mosquitto(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Mosquitto]]]:
    """Starts brokers with lines of configuration of their own: `make_mosquitto(config="", persistence=True)`.
    All end with the test.
    """
    async with AsyncExitStack() as stack:

        async def make(config: str = "", persistence: bool = True) -> Mosquitto:
            broker = Mosquitto(tmp_path / f"mosquitto_{next(_numbers)}", persistent=persistence, extra=config)
            stack.push_async_callback(broker.stop)
            await broker.start()
            return broker

        yield make


@pytest.fixture
async def mosquitto(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    """A broker whose sessions survive SIGTERM."""
    broker = Mosquitto(tmp_path / "mosquitto", persistent=True)
    await broker.start()
    yield broker
    await broker.stop()


@pytest.fixture
async def rumqttd(tmp_path: Path) -> AsyncIterator[int]:
    """The port of an MQTT 5 listener of rumqttd."""
    from iotcore import Broker

    from gateway.embedded.broker import rumqttd_configuration

    port = free_port()
    path = tmp_path / "rumqttd.toml"
    path.write_text(rumqttd_configuration(port))
    broker = Broker(config_path=str(path))
    await asyncio.to_thread(broker.start)
    yield port
    await asyncio.to_thread(broker.stop)


__all__ = ["wait_until"]
