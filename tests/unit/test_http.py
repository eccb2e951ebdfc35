"""HTTP on a real socket: health, readiness, metrics, request ids, problems."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import httpx
import pytest

from benchmarks.servers import patient
from gateway import metrics
from gateway.model.errors import ConfigError
from gateway.processes import supervisor
from gateway.processes.readiness import Readiness
from gateway.settings import Settings
from tests.fixtures.http_fakes import serving


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with serving(Readiness()) as client:
        yield client


async def test_health_and_readiness(client: httpx.AsyncClient) -> None:
    health, ready = await client.get("/healthz"), await client.get("/readyz")
    assert (health.status_code, health.json()["alive"]) == (200, True)
    assert ready.status_code == 503
    assert ready.json() == {
        "ready": False,
        "checks": {
            "broker": False,
            "database": False,
            "migrations": False,
            "accepting": True,
            "api": False,
        },
    }


async def test_metrics_in_both_formats(client: httpx.AsyncClient) -> None:
    metrics.RECONNECTS.inc(0)
    plain = await client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    assert "# TYPE fieldgate_mqtt_reconnects_total counter" in plain.text
    assert "fieldgate_build_info{" in plain.text
    opened = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert opened.headers["content-type"].startswith("application/openmetrics-text")
    assert opened.text.endswith("# EOF\n")


async def test_every_response_has_a_request_id(client: httpx.AsyncClient) -> None:
    first, second = await client.get("/healthz"), await client.get("/nowhere")
    assert first.headers["X-Request-ID"] != second.headers["X-Request-ID"]
    given = await client.get("/healthz", headers={"X-Request-ID": "abc-1"})
    assert given.headers["X-Request-ID"] == "abc-1"
    hostile = await client.get("/healthz", headers={"X-Request-ID": "a b" * 100})
    assert "a b" not in hostile.headers["X-Request-ID"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/nowhere", 404, "request.not_found"), ("POST", "/healthz", 405, "request.method_not_allowed")],
)
async def test_errors_are_problems(
    client: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    response = await client.request(method, path)
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert (response.status_code, body["status"], body["code"], body["retryable"]) == (
        status,
        status,
        code,
        False,
    )
    assert body["request_id"] == response.headers["X-Request-ID"]


async def test_an_address_in_use_is_a_fault_of_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "IN_USE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"cannot listen on {address}"):
            await supervisor.listen(address)


async def test_an_address_that_is_being_left_is_waited_for() -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{taken.getsockname()[1]}"
    waiting = asyncio.create_task(supervisor.listen(address))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    taken.close()
    (await waiting).close()


@pytest.mark.parametrize("listen", ["8080", "localhost:http", ":80", "127.0.0.1:70000"])
async def test_an_address_that_is_none_is_a_fault_of_configuration(listen: str) -> None:
    with pytest.raises(ConfigError, match="is no address"):
        await supervisor.listen(listen)


async def test_a_process_that_cannot_be_started_is_tried_again_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = asyncio.Event()
    tries = 0

    async def refuse(*_: object, **__: object) -> None:
        nonlocal tries
        tries += 1
        if tries == 2:
            tried.set()
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    settings = Settings.model_validate(
        {"security": {"encryption_keys": ["k"]}, "http": {"listen": "127.0.0.1:0"}}
    )
    listening = await supervisor.listen_all(settings.http)
    beside = supervisor.HttpProcess(settings, Readiness(), owner="test", listening=listening)
    running = asyncio.create_task(beside.run())
    async with patient(10):
        await tried.wait()
        await beside.stop()
        await running
