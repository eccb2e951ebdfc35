"""Embedded mode: both servers start, end with us however we end, come back with their
data, and are watched.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import aiomqtt
import asyncpg
import pytest
import structlog
from structlog.typing import EventDict, FilteringBoundLogger

from benchmarks.servers import PATIENCE
from gateway.embedded import Embedded, broker, embedded, supervisor
from gateway.embedded.supervisor import ServerFailed, Supervisor
from gateway.model.errors import ConfigError
from tests.fixtures.waiting import wait_until

DAEMON = """
import asyncio, pathlib, sys, structlog
from gateway.embedded import embedded

async def main():
    async with embedded(pathlib.Path(sys.argv[1]), structlog.wrap_logger(structlog.PrintLogger(sys.stderr))) as servers:
        print(servers.dsn, servers.broker_url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


class Heard:
    """A log whose events are kept."""

    def __init__(self) -> None:
        self.events: list[EventDict] = []
        self.log: FilteringBoundLogger = structlog.wrap_logger(
            None, processors=[self._keep], wrapper_class=structlog.make_filtering_bound_logger(0)
        )

    def pids(self, server: str) -> list[int]:
        """Of every start of the server, in order."""
        return [
            event["pid"]
            for event in self.events
            if event["event"] == "embedded.server_started" and event["server"] == server
        ]

    def _keep(self, _logger: object, _method: str, event: EventDict) -> EventDict:
        self.events.append(event)
        raise structlog.DropEvent


@pytest.fixture
def data_dir(enterable: Path) -> Path:
    return enterable / "var"


def gone(pid: int) -> bool:
    """Ended, and if it was a child of ours, waited for."""
    return not Path(f"/proc/{pid}").exists() or ") Z " in Path(f"/proc/{pid}/stat").read_text()


def users_of(directory: Path) -> list[str]:
    """Command lines of the processes that were started on the directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{directory}/" in words:
            found.append(words)
    return found


async def write(servers: Embedded) -> None:
    connection = await asyncpg.connect(servers.dsn)
    await connection.execute("create table kept as select 42 as answer")
    await connection.close()


async def read(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        answer: int = await connection.fetchval("select answer from kept")
        return answer
    finally:
        await connection.close()


async def echoes(url: str) -> bool:
    async with aiomqtt.Client(
        "127.0.0.1", int(url.rsplit(":", 1)[1]), protocol=aiomqtt.ProtocolVersion.V5
    ) as client:
        await client.subscribe("t", qos=1)
        await client.publish("t", b"value", qos=1)
        return bool((await anext(aiter(client.messages))).payload == b"value")


async def test_data_and_key_stay_and_no_process_does(data_dir: Path) -> None:
    heard = Heard()
    async with embedded(data_dir, heard.log) as servers:
        assert servers.broker == "mosquitto", "mosquitto is not installed: `make packages` says how to get it"
        assert await echoes(servers.broker_url)
        await write(servers)
        key = servers.security_key
        assert not servers.failed.done()
    assert all(gone(pid) for server in ("postgresql", "mosquitto") for pid in heard.pids(server))
    assert users_of(data_dir) == []
    assert (data_dir / "security.key").stat().st_mode & 0o777 == 0o600
    async with embedded(data_dir, heard.log) as servers:
        assert await read(servers.dsn) == 42
        assert servers.security_key == key
    assert len(heard.pids("postgresql")) == 2


async def test_only_we_can_enter_the_directory_of_the_socket(data_dir: Path) -> None:
    async with embedded(data_dir, Heard().log) as servers:
        sockets = Path(servers.dsn.partition("host=")[2])
        assert list(sockets.glob(".s.PGSQL.*"))
        assert sockets.stat().st_mode & 0o077 == 0
        connection = await asyncpg.connect(servers.dsn)
        assert await connection.fetchval("show listen_addresses") == ""
        await connection.close()


async def test_nobody_gets_in_without_the_password(data_dir: Path) -> None:
    """Also whoever gets to the socket, and over TCP where somebody opens it."""
    async with embedded(data_dir, Heard().log) as servers:
        sockets = servers.dsn.partition("host=")[2]
        for password in (None, "", "postgres"):
            with pytest.raises(asyncpg.InvalidPasswordError):
                await asyncpg.connect(host=sockets, user="postgres", database="fieldgate", password=password)
        connection = await asyncpg.connect(servers.dsn)
        methods = await connection.fetch("select distinct auth_method from pg_hba_file_rules")
        kept = await connection.fetchval("select rolpassword from pg_authid where rolname = 'postgres'")
        await connection.close()
        assert [row["auth_method"] for row in methods] == ["scram-sha-256"] and kept.startswith("SCRAM")
    assert (data_dir / "postgres.password").stat().st_mode & 0o777 == 0o600


async def test_a_cluster_that_trusted_everybody_is_closed_and_keeps_its_data(data_dir: Path) -> None:
    """As an earlier version left it: no password, and trust."""
    async with embedded(data_dir, Heard().log) as servers:
        await write(servers)
        connection = await asyncpg.connect(servers.dsn)
        await connection.execute("alter role postgres password null")
        await connection.close()
        old = servers.dsn
    (data_dir / "postgres.password").unlink()
    (data_dir / "postgres" / "data" / "pg_hba.conf").write_text("local all all trust\n")
    async with embedded(data_dir, Heard().log) as servers:
        assert servers.dsn != old and await read(servers.dsn) == 42
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(old)


async def test_a_second_gateway_on_the_directory_is_refused(data_dir: Path) -> None:
    async with embedded(data_dir, Heard().log) as servers:
        with pytest.raises(ConfigError, match="another gateway runs on it"):
            async with embedded(data_dir, Heard().log):
                pytest.fail("two gateways share a data directory")
        await write(servers)
        assert await read(servers.dsn) == 42


async def test_a_path_too_long_for_a_socket_serves_and_leaves_nothing_outside(data_dir: Path) -> None:
    deep = data_dir / ("d" * 100)
    data_dir.mkdir()
    async with embedded(deep, Heard().log) as servers:
        await write(servers)
        assert await read(servers.dsn) == 42
        sockets = Path(servers.dsn.partition("host=")[2])
    assert not sockets.exists() or sockets.is_relative_to(deep)


@pytest.mark.parametrize("server", ["postgresql", "mosquitto"])
async def test_a_server_that_dies_is_started_again_at_the_same_address(data_dir: Path, server: str) -> None:
    heard = Heard()
    async with embedded(data_dir, heard.log) as servers:
        await write(servers)
        os.kill(heard.pids(server)[0], signal.SIGKILL)
        await wait_until(
            lambda: len(heard.pids(server)) == 2 or servers.failed.done(), what=f"{server} is started again"
        )
        assert not servers.failed.done()
        assert await read(servers.dsn) == 42
        assert await echoes(servers.broker_url)
    assert [event["exit_code"] for event in heard.events if event["event"] == "embedded.server_died"] == [
        -signal.SIGKILL
    ]


async def test_postgresql_comes_back_although_a_busy_backend_outlives_its_postmaster(data_dir: Path) -> None:
    heard = Heard()
    async with embedded(data_dir, heard.log) as servers:
        await write(servers)
        connection = await asyncpg.connect(servers.dsn)
        backend = await connection.fetchval("select pg_backend_pid()")
        busy = asyncio.create_task(
            connection.execute(
                "do $$ begin while clock_timestamp() < now() + interval '2 s' loop end loop; end $$"
            )
        )
        await wait_until(
            lambda: ") R " in Path(f"/proc/{backend}/stat").read_text(), what="the backend computes"
        )
        os.kill(heard.pids("postgresql")[0], signal.SIGKILL)
        await wait_until(
            lambda: len(heard.pids("postgresql")) == 2 or servers.failed.done(),
            what="postgresql is started again",
        )
        await asyncio.gather(busy, return_exceptions=True)
        connection.terminate()
        assert not servers.failed.done(), servers.failed.exception()
        assert await read(servers.dsn) == 42


async def test_servers_end_with_a_killed_gateway_and_the_next_one_takes_over(data_dir: Path) -> None:
    daemon = subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert daemon.stdout is not None
    dsn, url = (await asyncio.to_thread(daemon.stdout.readline)).split()
    connection = await asyncpg.connect(dsn)
    await connection.execute("create table kept as select 42 as answer")
    await connection.close()
    async with aiomqtt.Client("127.0.0.1", int(url.rsplit(":", 1)[1])) as client:
        await client.publish("kept", b"value", qos=1, retain=True)
    daemon.kill()
    daemon.wait()
    heard = Heard()
    async with embedded(data_dir, heard.log) as servers:
        assert await read(servers.dsn) == 42
        async with aiomqtt.Client("127.0.0.1", int(servers.broker_url.rsplit(":", 1)[1])) as client:
            await client.subscribe("kept")
            assert (await anext(aiter(client.messages))).payload == b"value"
        postmaster = heard.pids("postgresql")[-1]
        assert Path(f"/proc/{postmaster}").exists()
    await wait_until(lambda: users_of(data_dir) == [], what="no process is left")
    daemon.stdout.close()


async def test_without_mosquitto_rumqttd_serves(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "SEARCH", ())
    monkeypatch.setenv("PATH", "/nonexistent")
    chosen = broker.choose_broker(data_dir)
    assert (chosen.name, chosen.durable) == ("rumqttd", False)
    data_dir.mkdir()
    heard = Heard()
    async with Supervisor(chosen, heard.log, asyncio.get_running_loop().create_future()).running():
        assert await echoes(chosen.url)
    assert gone(heard.pids("rumqttd")[0])


class Dying:
    """A server that ends as soon as it is started."""

    name = "dying"
    stop_signal = signal.SIGTERM

    def __init__(self) -> None:
        self.starts = 0

    async def start(self) -> subprocess.Popen[bytes]:
        """Ends with exit code 3."""
        self.starts += 1
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])


async def test_a_server_that_will_not_stay_is_given_up_and_we_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "MAX_RESTARTS", 2)
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    server = Dying()
    async with Supervisor(server, Heard().log, failed).running():
        with pytest.raises(ServerFailed, match="dying died 3 times"):
            await asyncio.wait_for(failed, 20 * PATIENCE)
    assert server.starts == 3
