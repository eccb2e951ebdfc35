"""Traces as a collector gets them: of a run with its calls, of a walk, of a request, of a batch; what they never
hold; what a collector costs that is away; and that nothing of it is loaded where none is named.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from benchmarks.daemon import Daemon, postgres_connection
from benchmarks.mqtt import Publisher
from benchmarks.servers import Mosquitto, wait_until
from gateway import tracing, tracing_export
from gateway.http.middleware import RequestIds
from gateway.model.access import Role
from gateway.model.errors import Unavailable
from gateway.store import access
from gateway.store.pool import Database
from gateway.tracing_settings import TracingSettings
from tests.fault.rig import LIVE
from tests.fixtures.inbound_rig import InboundRig
from tests.fixtures.otlp_receiver import Collector, TakenSpan
from tests.fixtures.source import Source
from tests.fixtures.told import append, numbered
from tests.fixtures.webhook_receiver import Receiver
from tests.fixtures.webhook_rig import sending, service

ROOT = Path(__file__).parents[2]
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as started:
        yield started
    tracing.stop()


def traced(collector: Collector, **changes: object) -> None:
    settings = TracingSettings.model_validate({"endpoint": collector.url, "ingest_sample": 1, **changes})
    tracing.setup(settings, instance="plant-1", replica="a", process="daemon")


async def test_what_a_daemon_does_is_traced_from_end_to_end(
    tmp_path: Path, mosquitto: Mosquitto, dsn: str, empty_dsn: str, database: Database, collector: Collector
) -> None:
    meters = [{"device": "*", "metric": "value", "meter": "{device}/value", "reduce": "each"}]
    daemon = Daemon(
        tmp_path,
        broker_url=mosquitto.url,
        dsn=dsn,
        connections=[postgres_connection("sink", "acme", empty_dsn, meters)],
        sync={"lateness": "1s"},
        tracing={"endpoint": collector.url, "ingest_sample": 1.0, "headers": {"x-key": "${env:TRACE_KEY}"}},
    )
    daemon._environment |= {"TRACE_KEY": "collectors-key", "OTEL_BSP_SCHEDULE_DELAY": "200"}
    daemon.start()
    try:
        await daemon.ready()

        async def is_live() -> bool:
            """A run of history has no scan."""
            async with database.connection() as connection:
                return bool(await connection.fetchval(LIVE))

        await wait_until(is_live, what="the connection is live")
        async with Publisher[int](mosquitto.port, "pump", acknowledged=lambda _: None) as publisher:
            body = {"ts": time.time_ns() // 1_000_000, "metrics": {"value": 7391.25, "text": "unheard-of"}}
            await publisher.publish("acme/devices/pump/telemetry", json.dumps(body).encode(), 1)
            await publisher.flush()
        token = (await access.create(database, name="t", role=Role.ADMIN)).token
        secret = await access.create_login(database, name="local", role=Role.ADMIN)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{daemon.port}", trust_env=False, timeout=10
        ) as client:
            told = await client.get(
                "/v1/connections/sink/status",
                headers={"authorization": f"Bearer {token}", "traceparent": f"00-{TRACE}-{SPAN}-01"},
            )
            assert told.status_code == 200
            await client.get(f"/login/{secret}")

        def has_pushed() -> bool:
            return bool(
                collector.named("sync.push")
                and collector.named("sync.record")
                and collector.named("GET /login/{link}")
            )

        await wait_until(has_pushed, what="spans of a push", seconds=30)
        assert await daemon.stop() == 0
    finally:
        await daemon.kill()
    by_id = {span.id: span for span in collector.spans}
    push = collector.named("sync.push")[0]
    run = by_id[push.parent]
    assert run.name == "sync.run" and run.parent == "" and run.trace == push.trace
    assert {span.name for span in collector.spans if span.trace == push.trace} == {
        "sync.run",
        "sync.scan",
        "sync.push",
        "sync.record",
    }
    assert {name: run.attributes[f"fieldgate.{name}"] for name in ("connection", "customer", "system")} == {
        "connection": "sink",
        "customer": "acme",
        "system": "postgres",
    }
    assert push.attributes["fieldgate.readings"] == 1
    batch = collector.named("ingest.batch")[0]
    assert (batch.parent, batch.attributes["fieldgate.messages"]) == ("", 1)
    # a request goes on with the trace of whoever asked, and is named by its route
    asked = collector.named("GET /v1/connections/{connection}/status")[0]
    assert (asked.trace, asked.parent) == (TRACE, SPAN)
    assert asked.attributes["http.response.status_code"] == 200
    assert {span.service["service.instance.id"].rpartition("/")[2] for span in collector.spans} == {
        "daemon",
        "http",
    }
    everything = b"".join(collector.bodies)
    for hidden in (
        b"7391",
        b"unheard-of",
        secret.encode(),
        token.encode(),
        b"postgresql:",
        b"collectors-key",
    ):
        assert hidden not in everything
    assert all(headers["x-key"] == "collectors-key" for headers in collector.headers)
    lines = [json.loads(line) for line in daemon.log.splitlines() if line.startswith("{")]
    ids = {line["trace_id"] for line in lines if "trace_id" in line}
    assert ids <= {span.trace for span in collector.spans} and "collectors-key" not in daemon.log


async def test_a_walk_is_traced_with_its_pages(database: Database, collector: Collector) -> None:
    traced(collector)
    source = Source()
    rig = await InboundRig(database, source).activate()
    await rig.run()
    source.put("a", {"secret-field": "hush"})
    source.pass_time(60)
    await rig.run()
    tracing.stop()
    runs = collector.named("inbound.run")
    assert len(runs) == 2 and {run.attributes["fieldgate.stream"] for run in runs} == {"work_orders"}
    own = [span for span in collector.spans if span.parent == runs[-1].id]
    assert {span.name for span in own} == {"inbound.page", "inbound.store"}
    stored = [span.attributes["fieldgate.records"] for span in own if span.name == "inbound.store"]
    assert sum(stored) == 1 and b"hush" not in b"".join(collector.bodies)


async def test_webhooks_say_in_which_trace_they_were_sent(database: Database, collector: Collector) -> None:
    traced(collector)
    async with Receiver() as receiver, sending(database):
        await service(database).create(receiver.url, customer=None)
        await append(database, numbered(7))
        await wait_until(lambda: bool(receiver.received), what="a webhook")
    tracing.stop()
    (attempt,) = collector.named("webhook.attempt")
    assert receiver.received[0].headers["traceparent"].startswith(f"00-{attempt.trace}-{attempt.id}-0")
    assert attempt.attributes["fieldgate.outcome"] == "delivered"
    async with Receiver() as receiver, sending(database):
        await service(database).create(receiver.url, customer=None)
        await append(database, numbered(8))
        await wait_until(lambda: bool(receiver.received), what="a webhook")
    assert "traceparent" not in receiver.received[0].headers


# Requests, of whoever asks


async def answered(path: str = "/x", route: str | None = "/{x}", status: int = 200, **headers: str) -> None:
    class Route:
        path = route

    async def application(scope: object, receive: object, send: object) -> None:
        if route is not None:
            scope["route"] = Route
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    transport = httpx.ASGITransport(RequestIds(application, https=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as client:
        await client.get(path, headers=headers)


def requests(collector: Collector) -> list[TakenSpan]:
    tracing.stop()
    return collector.spans


@pytest.mark.parametrize(
    "header",
    [
        "x" * 5000,
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\t",
    ],
)
async def test_a_trace_that_cannot_be_is_not_gone_on_with(collector: Collector, header: str) -> None:
    traced(collector)
    await answered(traceparent=header.strip() + ("-x" if header.endswith("\t") else ""))
    (span,) = requests(collector)
    assert span.trace != TRACE and span.parent == ""


async def test_strangers_cannot_have_traces_kept_and_may_have_them_left_out(collector: Collector) -> None:
    traced(collector, sample=0.0)
    await answered(traceparent=f"00-{TRACE}-{SPAN}-01")
    assert requests(collector) == []
    traced(collector)
    await answered(traceparent=f"00-{TRACE}-{SPAN}-00")
    assert requests(collector) == []


async def test_a_path_is_never_a_name(collector: Collector) -> None:
    traced(collector)
    await answered("/reauthorize/hush-hush?x=hush-hush", route=None, status=404)
    await answered("/reauthorize/hush-hush", route="/reauthorize/{secret}", status=500)
    await answered("/healthz")
    lost, failed = requests(collector)
    assert (lost.name, failed.name, failed.failed) == ("GET none", "GET /reauthorize/{secret}", True)
    assert b"hush" not in b"".join(collector.bodies)


async def test_what_fails_is_told_by_its_class_and_log_lines_name_the_trace(collector: Collector) -> None:
    traced(collector)
    with pytest.raises(Unavailable), tracing.span("sync.run"):
        ids = tracing.with_ids(None, "", {})
        raise Unavailable("the system says: hush-hush")
    assert tracing.with_ids(None, "", {}) == {}
    (span,) = requests(collector)
    assert (span.failed, span.attributes["error.type"]) == (True, "Unavailable")
    assert ids == {"trace_id": span.trace, "span_id": span.id}
    assert b"hush" not in b"".join(collector.bodies)


# A collector that is away


@pytest.mark.parametrize("status", [400, 308])
async def test_one_that_is_away_or_elsewhere_is_said_once_and_nobody_waits(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setattr(tracing_export, "EXPORT_SECONDS", 0.1)
    collector.status = status
    traced(collector)

    def said(event: str) -> int:
        return [one["event"] for one in events].count(event)

    with capture_logs() as events:
        for _ in range(3):
            started = time.perf_counter()
            for _ in range(3000):  # more than may wait
                with tracing.span("sync.run"):
                    pass
            assert time.perf_counter() - started < 5
            await asyncio.sleep(0.1)
        await wait_until(lambda: said("tracing.export_failed") > 0, what="it is said")
        collector.status = 200

        async def resumes() -> bool:
            with tracing.span("sync.run"):
                pass
            return said("tracing.export_resumed") > 0

        await wait_until(resumes, what="it is back")
    assert (said("tracing.export_failed"), said("tracing.export_resumed")) == (1, 1)
    assert [record for record in caplog.records if record.name.startswith("opentelemetry")] == []


def test_what_a_collector_answers_beside_its_status_is_not_read() -> None:
    """It may have no end."""
    ended = threading.Event()

    def serve(listening: socket.socket) -> None:
        taken, _ = listening.accept()
        with taken, suppress(OSError):
            taken.recv(1 << 20)
            taken.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
            while True:
                taken.sendall(b"x" * 65536)
        ended.set()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        settings = TracingSettings(endpoint=f"http://127.0.0.1:{listening.getsockname()[1]}")
        tracing.setup(settings, instance="plant-1", replica="a", process="daemon")
        with tracing.span("sync.run"):
            pass
        tracing.stop()
        assert ended.wait(10)


def test_whoever_stops_the_gateway_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing_export, "STOP_SECONDS", 0.2)
    with Collector() as silent:
        pass  # its port is closed now
    traced(silent)
    with tracing.span("sync.run"):
        pass
    started = time.perf_counter()
    tracing.stop()
    assert time.perf_counter() - started < 5


def test_where_none_is_named_nothing_of_it_is_loaded() -> None:
    program = """
import sys
import gateway.app, gateway.http_process
from gateway import tracing
from gateway.tracing_settings import TracingSettings
tracing.setup(TracingSettings(), instance="i", replica="r", process="p")
with tracing.span("ingest.batch", messages=1):
    tracing.add(outcome="x")
assert tracing.traceparent() == {}
unwanted = ("opentelemetry.sdk", "opentelemetry.exporter", "joserfc")
print([name for name in sys.modules if name.startswith(unwanted)])
"""
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "given",
    [
        {"endpoint": "127.0.0.1:4318"},
        {"endpoint": "grpc://127.0.0.1:4317"},
        {"endpoint": "http://user:pw@host:4318"},
        {"endpoint": "http://host:99999"},
        {"endpoint": "http://"},
        {"headers": {"a b": "x"}},
        {"headers": {"a": "x\ny"}},
        {"sample": 1.1},
        {"ingest_sample": -0.1},
    ],
)
def test_settings_that_cannot_work_say_so(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TracingSettings.model_validate(given)
