"""The daemon and its HTTP process, each of them killed, hung or asked to end: the other notices, and
telemetry is not touched.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.daemon import Daemon, processes
from benchmarks.mqtt import Publisher
from benchmarks.servers import PATIENCE, Mosquitto, accepts, free_port, wait_until
from gateway.demo.cmms import DemoCmms
from gateway.model.access import Role
from gateway.store import access
from gateway.store.pool import Database

pytestmark = pytest.mark.usefixtures("started_alone")


@pytest.fixture
async def daemon(tmp_path: Path, mosquitto: Mosquitto, dsn: str) -> AsyncIterator[Daemon]:
    made = Daemon(tmp_path, broker_url=mosquitto.url, dsn=dsn)
    made.start()
    try:
        await made.ready()
        yield made
    finally:
        await made.kill()


@asynccontextmanager
async def asking(daemon: Daemon) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{daemon.port}", trust_env=False, timeout=10 * PATIENCE
    ) as client:
        yield client


def http_process(daemon: Daemon) -> int:
    [_, pid] = processes(daemon.pid)
    return pid


def has_ended(pid: int) -> bool:
    """A zombie has: reaping an orphan is the first process's business."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


async def test_one_that_is_killed_is_there_again_and_telemetry_is_acknowledged_meanwhile(
    daemon: Daemon, mosquitto: Mosquitto, database: Database
) -> None:
    acknowledged: list[int] = []
    async with Publisher[int](mosquitto.port, "pump", acknowledged=acknowledged.append) as publisher:
        first = http_process(daemon)
        os.kill(first, signal.SIGKILL)
        for number in range(100):
            payload = json.dumps(
                {"ts": time.time_ns() // 1_000_000 + number, "metrics": {"t": number}}
            ).encode()
            await publisher.publish("acme/devices/pump/telemetry", payload, number)
        await publisher.flush()
    await daemon.ready()
    assert http_process(daemon) != first
    assert len(acknowledged) == 100
    async with database.connection() as connection:
        assert await connection.fetchval("select count(*) from telemetry") == 100
    died = [json.loads(line) for line in daemon.log.splitlines() if "http.process_died" in line]
    assert [line["exit_code"] for line in died] == [-signal.SIGKILL]
    assert await daemon.stop() == 0


async def test_one_that_dies_with_something_unread_is_there_again(daemon: Daemon) -> None:
    """The line ends by a reset then, and what is said on it afterwards must not end the daemon."""
    first = http_process(daemon)
    os.kill(first, signal.SIGSTOP)
    os.kill(daemon.pid, signal.SIGHUP)
    await wait_until(lambda: "gateway.reloaded" in daemon.log, what="the reload, which is told on the line")
    os.kill(first, signal.SIGKILL)
    await wait_until(lambda: "http.process_died" in daemon.log, what="its death is noticed")
    await daemon.ready()
    assert http_process(daemon) != first
    assert await daemon.stop() == 0


async def test_it_does_not_outlive_a_daemon_that_is_killed_and_leaves_the_port(daemon: Daemon) -> None:
    pid = http_process(daemon)
    await daemon.kill()
    await wait_until(lambda: has_ended(pid), what="the HTTP process has ended")
    assert not accepts(daemon.port)
    daemon.start()
    await daemon.ready()


@pytest.mark.parametrize("which", ["first", "next"])
async def test_one_that_was_being_started_ends_at_once_with_a_daemon_that_is_killed(
    tmp_path: Path, mosquitto: Mosquitto, dsn: str, which: str
) -> None:
    made = Daemon(tmp_path, broker_url=mosquitto.url, dsn=dsn)
    made.start()
    before = made.pid
    try:
        if which == "next":
            await made.ready()
            before = http_process(made)
            os.kill(before, signal.SIGKILL)

        def has_begun() -> bool:
            """Not before it is apart from the daemon: a mere copy of that has not asked for the end yet."""
            *_, newest = processes(made.pid)
            with suppress(ProcessLookupError):
                return newest not in (made.pid, before) and os.getpgid(newest) == newest
            return False

        await wait_until(has_begun, what="it is being started", every=0.01)
        pid = http_process(made)
        os.kill(pid, signal.SIGSTOP)  # it gets no time of its own to notice
    finally:
        await made.kill()
    await wait_until(lambda: has_ended(pid), seconds=10, what="the HTTP process has ended")


async def test_signals_are_the_daemons(daemon: Daemon) -> None:
    pid = http_process(daemon)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    async with asking(daemon) as client:
        assert (await client.get("/healthz")).status_code == 200
    assert http_process(daemon) == pid
    assert await daemon.stop() == 0
    assert has_ended(pid)


async def test_idle_sockets_by_the_thousand_leave_everything_answering(daemon: Daemon) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    opened = []
    try:
        for number in range(1_100):
            opened.append(await asyncio.open_connection("127.0.0.1", daemon.port))
            if number % 2:
                opened[-1][1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Never: ")
        async with asking(daemon) as client:
            for path in ("/healthz", "/readyz", "/metrics", "/status", "/v1/connections"):
                answer = await client.get(path, headers={"Connection": "close"})
                assert answer.status_code == (401 if path.startswith("/v1") else 200), path
            counted = (await client.get("/metrics")).text
        assert 'fieldgate_http_refused_total{reason="idle"}' in counted
    finally:
        for _, writer in opened:
            writer.close()


async def test_metrics_have_a_listener_of_their_own(tmp_path: Path, mosquitto: Mosquitto, dsn: str) -> None:
    port = free_port()
    http = {"metrics_listen": f"127.0.0.1:{port}", "metrics": "token"}
    made = Daemon(tmp_path, broker_url=mosquitto.url, dsn=dsn, http=http)
    made.start()
    try:
        await made.ready()
        async with asking(made) as client:
            assert (await client.get("/metrics")).status_code == 401
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=10 * PATIENCE
        ) as client:
            assert "fieldgate_build_info{" in (await client.get("/metrics")).text
            assert (await client.get("/readyz")).status_code == 200
            for path in ("/", "/v1/connections", "/login", "/docs", "/openapi.json", "/status"):
                assert (await client.get(path)).status_code == 404, path
        os.kill(http_process(made), signal.SIGKILL)
        await wait_until(lambda: accepts(port), what="the listener is there")
        async with httpx.AsyncClient(trust_env=False, timeout=10 * PATIENCE) as client:

            async def is_alive() -> bool:
                return (await client.get(f"http://127.0.0.1:{port}/healthz")).status_code == 200

            await wait_until(is_alive, what="the new process has found the daemon")
    finally:
        await made.kill()


async def test_a_daemon_that_hangs_is_neither_alive_nor_ready(daemon: Daemon) -> None:
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        async with asking(daemon) as client:
            alive, ready, metrics = await asyncio.gather(
                *(client.get(path) for path in ("/healthz", "/readyz", "/metrics"))
            )
            assert (alive.status_code, alive.json()["code"]) == (503, "gateway.overloaded")
            assert (ready.status_code, ready.json()) == (503, {"ready": False, "checks": {"daemon": False}})
            assert metrics.status_code == 503
            os.kill(daemon.pid, signal.SIGCONT)
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/readyz")).status_code == 200
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


async def test_it_stops_quietly_while_requests_wait_for_the_database(
    daemon: Daemon, database: Database
) -> None:
    """For a lock; what waits longer than the stop may take is told to come again."""
    token = (await access.create(database, name="test", role=Role.ADMIN)).token
    headers = {"Authorization": f"Bearer {token}"}
    async with asking(daemon) as client, database.transaction() as holding:
        await holding.execute("lock table api_token in access exclusive mode")
        asked = [asyncio.create_task(client.get("/v1/connections", headers=headers)) for _ in range(5)]

        async def all_wait() -> bool:
            query = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
            return bool(await database.fetchval(query) >= 2)

        await wait_until(all_wait, what="requests wait for the lock")
        assert await daemon.stop() == 0
        answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {503}
    assert "Traceback" not in daemon.log and "CancelledError" not in daemon.log
    assert "running task(s)" not in daemon.log


async def test_what_it_counts_is_in_the_metrics_and_stays_when_it_dies(
    daemon: Daemon, database: Database
) -> None:
    series = (
        'fieldgate_upstream_requests_total{operation="list_meters",status_class="2xx",system="maintainx"}'
    )
    async with DemoCmms(meters=["pump t"], api_key="key") as cmms, asking(daemon) as client:
        token = (await access.create(database, name="test", role=Role.ADMIN)).token
        headers = {"Authorization": f"Bearer {token}"}
        wanted = {
            "id": "cmms",
            "customer": "acme",
            "system": "maintainx",
            "settings": {"base_url": cmms.url},
            "credentials": {"type": "api_key", "api_key": "key"},
        }
        assert (await client.post("/v1/connections", json=wanted, headers=headers)).status_code == 201

        async def is_active() -> bool:
            return (
                str((await client.get("/v1/connections/cmms/status", headers=headers)).json()["state"])
                == "active"
            )

        await wait_until(is_active, what="the connection is active")
        for _ in range(2):
            assert (await client.get("/v1/connections/cmms/meters", headers=headers)).status_code == 200
    assert (await daemon.metrics())[series] == 2
    assert (await daemon.metrics())[series] == 2, "told twice, counted once"
    os.kill(http_process(daemon), signal.SIGKILL)

    async def stays() -> bool:
        return (await daemon.metrics()).get(series) == 2

    await wait_until(stays, what="what it counted is told by the next one")
