"""A whole gateway process, from the API to the system and back: connected, worked, refused, reconnected by
the customer, disconnected.

Every message on MQTT and every answer of the API is checked against the documents that describe them, and no
secret is anywhere.
"""

from __future__ import annotations

import asyncio
import base64
import re
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiomqtt
import httpx
import orjson
import pytest
import uvicorn
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from cloudevents.core.formats.json import JSONFormat
from paho.mqtt.subscribeoptions import SubscribeOptions
from standardwebhooks import Webhook

from benchmarks.daemon import Daemon
from benchmarks.mqtt import Publisher
from benchmarks.servers import PATIENCE, Mosquitto, free_port, wait_until
from gateway.demo.cmms import DemoCmms
from gateway.embedded.postgres import binaries
from gateway.model.access import Role
from gateway.store import access
from gateway.store.pool import Database
from tests.fixtures.openapi import CheckedClient
from tests.fixtures.schemas import validate

OLD, NEW = "canary-old-key-7c1f", "canary-new-key-93ab"
NAME = "acme-cmms"
STATUS = f"fieldgate/v1/customers/acme/connections/{NAME}/status"


@dataclass
class Ears:
    """What the broker says, with the time of arrival."""

    retained: dict[str, dict[str, Any]] = field(default_factory=dict)
    seen: list[tuple[float, str, bytes]] = field(default_factory=list)

    async def listen(self, port: int) -> None:
        async with aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5) as client:
            # With this option, a message that is published to be retained says so on arrival.
            await client.subscribe("fieldgate/v1/#", options=SubscribeOptions(qos=1, retainAsPublished=True))
            async for message in client.messages:
                topic, payload = str(message.topic), bytes(message.payload)  # type: ignore[arg-type]
                self.seen.append((time.monotonic(), topic, payload))
                if payload and message.retain:
                    self.retained[topic] = orjson.loads(payload)
                elif not payload:
                    self.retained.pop(topic, None)

    def when(self, holds: Callable[[str, bytes], bool]) -> float | None:
        """When the first such message came."""
        return next((at for at, topic, payload in self.seen if holds(topic, payload)), None)


class Receiver:
    """A webhook's endpoint."""

    def __init__(self) -> None:
        self.port = free_port()
        self.got: list[tuple[float, dict[str, str], bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        body = b""
        while (part := await receive()).get("more_body") or part.get("body"):
            body += part.get("body", b"")
            if not part.get("more_body"):
                break
        self.got.append(
            (time.monotonic(), {name.decode(): value.decode() for name, value in scope["headers"]}, body)
        )
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@dataclass
class Scene:
    """Everything that runs."""

    daemon: Daemon
    cmms: DemoCmms
    api: CheckedClient
    ears: Ears
    receiver: Receiver
    secret: str
    dsn: str
    broker: Mosquitto

    def refusals(self) -> int:
        return sum(count for route, count in self.cmms.requests.items() if route.endswith(" 401"))

    async def state(self) -> str:
        return str((await self.api("GET", f"/v1/connections/{NAME}/status")).json()["state"])

    async def reaches(self, state: str, seconds: float = 30) -> None:
        async def there() -> bool:
            return await self.state() == state

        await wait_until(there, what=state, seconds=seconds)

    def event(self, type: str) -> float | None:
        return self.ears.when(lambda topic, _: topic.endswith(f"/events/{type}"))

    def hooked(self, type: str) -> float | None:
        return next(
            (at for at, _, body in self.receiver.got if orjson.loads(body)["type"] == f"fieldgate.{type}"),
            None,
        )


@asynccontextmanager
async def staged(
    tmp_path: Path, mosquitto: Mosquitto, dsn: str, *, interval: str, probe_interval: str = "2s"
) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        database = await Database.open(dsn, size=2)
        stack.push_async_callback(database.close)
        cmms = await stack.enter_async_context(DemoCmms(meters=["pump-1 t"], api_key=OLD))
        receiver, ears = Receiver(), Ears()
        server = uvicorn.Server(uvicorn.Config(receiver, port=receiver.port, log_config=None, lifespan="off"))
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        tasks = [asyncio.create_task(server.serve()), asyncio.create_task(ears.listen(mosquitto.port))]
        sections = {
            "sync": {
                "lateness": "200ms",
                "probe_interval": probe_interval,
                "unknown_wait": "1s",
                "backoff_cap": "1s",
            },
            "webhooks": {"allow_private_addresses": True, "allow_http": True},
            "credits": {"capacity": 10},
        }
        daemon = Daemon(tmp_path, broker_url=mosquitto.url, dsn=dsn, **sections)  # type: ignore[arg-type]
        daemon.start()
        stack.push_async_callback(daemon.kill)
        await daemon.ready()
        token = (await access.create(database, name="e2e", role=Role.ADMIN)).token
        api = await stack.enter_async_context(CheckedClient(f"http://127.0.0.1:{daemon.port}", token))
        hook = (
            await api(
                "POST", "/v1/webhooks", json={"url": f"http://127.0.0.1:{receiver.port}/", "customer": "acme"}
            )
        ).json()
        meters = [{"device": "pump-*", "metric": "t", "meter": "{device} t", "reduce": "last", "every": "1s"}]
        wanted = {
            "id": NAME,
            "customer": "acme",
            "system": "maintainx",
            "settings": {"base_url": cmms.url},
            "credentials": {"type": "api_key", "api_key": OLD},
            "sync": {"interval": interval, "initial_days": 1},
            "meters": meters,
        }
        assert (await api("POST", "/v1/connections", json=wanted)).status_code == 201
        scene = Scene(daemon, cmms, api, ears, receiver, hook["secret"], dsn, mosquitto)
        await scene.reaches("active")
        yield scene
        server.should_exit = True
        for task in tasks[1:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def publishing(port: int, acknowledged: set[int]) -> AsyncIterator[None]:
    """Ten samples a second, one in each window of a second counted once."""

    async def publish() -> None:
        async with Publisher[int](port, "pump", window=100, acknowledged=acknowledged.add) as publisher:
            while True:
                at = time.time_ns() // 1_000_000
                await publisher.publish(
                    "acme/devices/pump-1/telemetry", orjson.dumps({"ts": at, "metrics": {"t": at % 1000}}), at
                )
                await asyncio.sleep(0.1)

    task = asyncio.create_task(publish())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def readings(cmms: DemoCmms) -> dict[int, int]:
    """Seconds that the CMMS has a reading of, and how many."""
    return {
        int(at.timestamp()): len(values)
        for meter in cmms.meters.values()
        for at, values in meter.readings.items()
    }


async def told_within(scene: Scene, began: float) -> dict[str, float]:
    """Seconds from the first refused call to each thing that is told."""
    type_ = "connection.reauthorization_required"
    found: dict[str, float | None] = {}

    def complete() -> bool:
        found["status"] = scene.ears.when(
            lambda topic, payload: (
                topic == STATUS and orjson.loads(payload)["state"] == "reauthorization_required"
            )
        )
        found["issue"] = scene.ears.when(lambda topic, payload: "/issues/" in topic and bool(payload))
        found["event"], found["webhook"] = scene.event(type_), scene.hooked(type_)
        return all(found.values())

    await wait_until(complete, what="status, issue, event and webhook", seconds=60, every=0.02)
    return {name: round(at - began, 2) for name, at in found.items() if at is not None}


async def revoked(scene: Scene) -> float:
    """The key is revoked; when the first call was refused."""
    scene.cmms.switches.revoke_key = True
    await wait_until(lambda: scene.refusals() > 0, what="a call is refused", seconds=60, every=0.005)
    return time.monotonic()


async def reconnected(scene: Scene, key: str) -> None:
    """The customer opens the link, reads, and gives the new key."""
    link = (await scene.api("POST", f"/v1/connections/{NAME}/reauthorization")).json()["url"]
    async with httpx.AsyncClient(follow_redirects=True, timeout=10 * PATIENCE) as browser:
        page = (await browser.get(link)).text
        assert "MaintainX" in page and key not in page
        form = re.search(r'<form[^>]*method="post"[^>]*action="([^"]+)"', page)
        hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page))
        assert form is not None
        answer = await browser.post(httpx.URL(link).join(form[1]), data={**hidden, "api_key": key})
        assert answer.status_code == 200


async def test_busy_refused_reconnected_and_disconnected(
    tmp_path: Path, mosquitto: Mosquitto, dsn: str
) -> None:
    acknowledged: set[int] = set()
    async with staged(tmp_path, mosquitto, dsn, interval="500ms") as scene:
        async with publishing(mosquitto.port, acknowledged):
            await wait_until(lambda: len(readings(scene.cmms)) >= 3, what="readings arrive")
            took = await told_within(scene, await revoked(scene))
            assert max(took.values()) <= 2.0, took
            print(f"after the refused call: {took}")
            calls = sum(scene.cmms.requests.values())
            before = len(acknowledged)
            await wait_until(
                lambda: len(acknowledged) > before + 30, what="three seconds of samples are buffered"
            )
            assert sum(scene.cmms.requests.values()) == calls, "nothing is called while a person is needed"
            scene.cmms.api_key, scene.cmms.switches.revoke_key = NEW, False
            await reconnected(scene, NEW)
            await scene.reaches("active")
            await wait_until(lambda: scene.event("connection.reauthorized") is not None, what="it is told")
        last = max(acknowledged) // 1000 - 2
        await wait_until(
            lambda: last in readings(scene.cmms), what="what was buffered is delivered", seconds=40
        )
        seconds = {at // 1000 for at in acknowledged if at // 1000 <= last}
        delivered = readings(scene.cmms)
        assert not seconds - delivered.keys() and {delivered[second] for second in seconds} == {1}
        await wait_until(
            lambda: not [topic for topic in scene.ears.retained if "/issues/" in topic],
            what="the issue is emptied",
        )
        assert (await scene.api("DELETE", f"/v1/connections/{NAME}")).status_code in (200, 202, 204)
        await wait_until(
            lambda: not [topic for topic in scene.ears.retained if NAME in topic],
            what="no topic is left behind",
            seconds=40,
        )
        assert (await scene.api("GET", "/v1/credits")).json()["available"] == 10
        await wait_until(
            lambda: scene.hooked("connection.disconnected") is not None, what="the webhook is told of the end"
        )
        await everything_was_right(scene)


@pytest.mark.parametrize(
    ("probe_interval", "within_seconds"), [("2s", 7), pytest.param("50s", 60, marks=pytest.mark.soak)]
)
async def test_an_idle_connection_is_found_refused(
    tmp_path: Path, mosquitto: Mosquitto, dsn: str, probe_interval: str, within_seconds: float
) -> None:
    """With the interval that is the default, in the long run."""
    async with staged(tmp_path, mosquitto, dsn, interval="1h", probe_interval=probe_interval) as scene:
        began = time.monotonic()
        took = await told_within(scene, await revoked(scene))
        assert max(took.values()) <= 2.0, took
        assert time.monotonic() - began < within_seconds
        print(f"told {time.monotonic() - began:.1f} s after the revocation; after the refused call: {took}")


async def everything_was_right(scene: Scene) -> None:
    """Messages, answers, signatures, order, and no secret anywhere."""
    for _, topic, payload in scene.ears.seen:
        validate(topic, payload)
    signer = Webhook(scene.secret)
    types: list[str] = []
    for _, headers, body in scene.receiver.got:
        signer.verify(body, headers)
        event = from_http_event(HTTPMessage(headers=headers, body=body), JSONFormat())
        types.append(event.get_type())
    lifecycle = [type_ for type_ in types if type_.startswith("fieldgate.connection.")]
    assert lifecycle == [
        f"fieldgate.connection.{what}"
        for what in (
            "created",
            "activated",
            "reauthorization_required",
            "reauthorization_started",
            "reauthorized",
            "disconnected",
        )
    ]
    dump = await asyncio.to_thread(dumped, scene.dsn)
    published = b"".join(topic.encode() + payload for _, topic, payload in scene.ears.seen)
    hooks = b"".join(body for _, _, body in scene.receiver.got)
    metrics = (
        await httpx.AsyncClient(timeout=10 * PATIENCE).get(f"http://127.0.0.1:{scene.daemon.port}/metrics")
    ).content
    answers = b"".join(
        answer.content
        for answer in scene.api.answers
        if "/webhooks" not in str(answer.url) and "reauthorization" not in str(answer.url)
    )
    for canary in (OLD, NEW, scene.secret):
        for place, text in {
            "dump": dump,
            "mqtt": published,
            "webhooks": hooks,
            "metrics": metrics,
            "api": answers,
            "log": scene.daemon.log.encode(),
        }.items():
            assert canary.encode() not in text, f"{canary} in {place}"
            assert base64.b64encode(canary.encode()) not in text, f"{canary} in {place}"


def dumped(dsn: str) -> bytes:
    """The whole database as text."""
    program = str(Path(binaries(None)[0]).with_name("pg_dump"))
    return subprocess.run([program, dsn], capture_output=True, check=True).stdout
