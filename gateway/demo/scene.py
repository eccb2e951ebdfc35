"""The demonstration's stage: a configuration as an operator would write it, the servers, the CMMS, the fleet
and the gateway together.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog
import yaml

from gateway import app, clock, metrics
from gateway.demo.cmms import DemoCmms
from gateway.demo.fleet import Fleet, device_names, publish_steadily
from gateway.demo.publisher import Publisher
from gateway.embedded import Embedded, embedded
from gateway.embedded.broker import port_or_another
from gateway.embedded.postgres import write_secret
from gateway.model.access import Role
from gateway.reading import read, read_again
from gateway.store import access
from gateway.store.pool import Database

log = structlog.get_logger(__name__)

CUSTOMER = "demo"
CONNECTION = "demo-cmms"
HTTP_PORT = 8080
WINDOW = "5s"
METERS = {"temperature": ("CEL", "mean"), "vibration": ("MMS", "max"), "running_hours": ("HUR", "last")}
"""Unit and reduction by metric; the meter is called `{device} {metric}`."""

SLOW_SECONDS = 3.0
PEOPLE_SECONDS = 15.0
"""How long the people of the CMMS are at a work order."""

LOGIN = timedelta(hours=12)
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What runs, for the view and the keys."""

    servers: Embedded
    url: str
    folder: Path
    cmms: DemoCmms
    publisher: Publisher
    devices: tuple[str, ...]
    database: Database
    started: asyncio.Event
    dashboard: asyncio.Future[str]
    """Its address, with a login that is good once; done when there is one."""

    def toggle_errors(self) -> None:
        """The CMMS answers 500, or no longer."""
        self.cmms.switches.answer_500 = not self.cmms.switches.answer_500

    def toggle_slow(self) -> None:
        """The CMMS takes its time, or no longer."""
        self.cmms.switches.slow_seconds = 0.0 if self.cmms.switches.slow_seconds else SLOW_SECONDS

    def toggle_key(self) -> None:
        """The CMMS revokes the API key, or issues a new one."""
        self.cmms.switches.revoke_key = not self.cmms.switches.revoke_key

    def stop(self) -> None:
        """As SIGTERM does: the gateway finishes what it has in hand."""
        os.kill(os.getpid(), signal.SIGTERM)


async def perform(
    data_dir: Path, *, devices: int, rate: float, show: Callable[[Scene], Awaitable[None]]
) -> int:
    """Runs everything, with `show` beside it, until the gateway was asked to stop; the readings that the CMMS
    got. Raises FieldgateError.
    """
    folder = _folder(data_dir)
    names = device_names(devices)
    meters = [f"{device} {metric}" for device in names for metric in METERS]
    async with (
        embedded(data_dir, log) as servers,
        DemoCmms(
            meters=meters,
            api_key=_write_key(folder, secrets.token_urlsafe(24)),
            people_seconds=PEOPLE_SECONDS,
        ) as cmms,
    ):
        address = f"127.0.0.1:{port_or_another(HTTP_PORT)}"
        _write_configuration(folder, servers, cmms, address)

        config = folder / "fieldgate.yaml"
        loaded = read(config)
        async with AsyncExitStack() as stack:
            database = await Database.open(servers.dsn, size=3, application_name="fieldgate-demo")
            stack.push_async_callback(database.close)
            scene = Scene(
                servers=servers,
                url=f"http://{address}",
                folder=folder,
                cmms=cmms,
                publisher=Publisher(loaded.settings.broker, f"demo-fleet-{secrets.token_hex(4)}"),
                devices=tuple(names),
                database=database,
                started=asyncio.Event(),
                dashboard=asyncio.get_running_loop().create_future(),
            )
            gateway = app.run(
                loaded.settings,
                loaded.connections,
                reload=lambda: read_again(config),
                ready=scene.started.set,
            )
            fleet = Fleet(customer=CUSTOMER, devices=devices, seed=1, at=clock.now())
            await _together(
                servers.guard(gateway),
                scene.publisher.run(),
                _publish(scene.started, fleet, scene.publisher, rate),
                _issue_keys(cmms, folder),
                _invite(scene),
                show(scene),
            )
        return sum(len(values) for meter in cmms.meters.values() for values in meter.readings.values())


async def _together(leading: Coroutine[None, None, None], *others: Awaitable[None]) -> None:
    """Runs all until the leading one ends."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_awaited(other)) for other in others]
        await leading
        for task in tasks:
            task.cancel()


async def _awaited(work: Awaitable[None]) -> None:
    await work


async def _publish(started: asyncio.Event, fleet: Fleet, publisher: Publisher, rate: float) -> None:
    """Begins when the gateway has subscribed, so that nothing is published to nobody."""
    await started.wait()
    while True:
        if any(sample.value for family in metrics.CONNECTED.collect() for sample in family.samples):
            break
        await asyncio.sleep(POLL_SECONDS)
    await publish_steadily(fleet, publisher, rate=rate)


async def _invite(scene: Scene) -> None:
    """A login for who looks at the demonstration."""
    await scene.started.wait()
    secret = await access.create_login(scene.database, name="demo", role=Role.ADMIN, lifetime=LOGIN)
    scene.dashboard.set_result(f"{scene.url}/login/{secret}")


async def _issue_keys(cmms: DemoCmms, folder: Path) -> None:
    """While the CMMS refuses the key it has issued another, which the view shows: a person enters it by a
    reconnect link, or the switch is turned back, and the operator's file has it and the gateway reads it.
    """
    written = cmms.api_key
    while True:
        if cmms.switches.revoke_key:
            cmms.new_key = cmms.new_key or secrets.token_urlsafe(24)
        is_given_back = cmms.new_key is not None and not cmms.switches.revoke_key
        if is_given_back:
            cmms.take_up_key()
        if cmms.api_key != written:
            written = _write_key(folder, cmms.api_key)
        if is_given_back:
            os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(POLL_SECONDS)


def _folder(data_dir: Path) -> Path:
    folder = data_dir.absolute() / "config"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _write_key(folder: Path, key: str) -> str:
    path = folder / "cmms.key"
    path.touch(mode=0o600)
    path.write_text(key)
    return key


def _write_configuration(folder: Path, servers: Embedded, cmms: DemoCmms, address: str) -> None:
    write_secret(folder / "database.dsn", servers.dsn)
    for name, document in (
        ("fieldgate.yaml", _gateway(servers, address)),
        ("connections.yaml", {"connections": [_connection(cmms)]}),
    ):
        text = yaml.safe_dump(document, sort_keys=False, width=160)
        (folder / name).write_text(f"# Written by `fieldgate demo` at each start.\n{text}")


def _gateway(servers: Embedded, address: str) -> dict[str, object]:
    return {
        "instance": "demo",
        "broker": {"url": servers.broker_url},
        "database": {"dsn": "${file:database.dsn}"},
        "http": {"listen": address, "public_url": f"http://{address}"},
        "customers": [CUSTOMER],
        "connections_file": "connections.yaml",
        "security": {"encryption_keys": ["${file:../security.key}"]},
        "sync": {"lateness": "1s", "backoff_cap": "5s", "unknown_wait": "3s"},
    }


def _connection(cmms: DemoCmms) -> dict[str, object]:
    return {
        "id": CONNECTION,
        "customer": CUSTOMER,
        "system": "maintainx",
        "settings": {"base_url": cmms.url},
        "credentials": {"type": "api_key", "api_key": "${file:cmms.key}"},
        "sync": {
            "interval": "2s",
            "initial_days": 30,
            "pull": ["work_orders"],
            "pull_interval": "10s",  # the CMMS takes a hundred calls a minute, and readings need most of them
        },
        "alerts": [
            {
                "id": "shaking",
                "device": "*",
                "metric": "vibration",
                "above": 2.0,
                "clear_below": 1.0,
                "for": "2s",
                "hold_off": "10m",
                "raise": "work_order",
                "severity": "high",
                "title": "{device} is shaking",
                "text": "{metric} is {value} since {since}",
            }
        ],
        "meters": [
            {
                "device": "*",
                "metric": metric,
                "meter": f"{{device}} {metric}",
                "unit": unit,
                "reduce": reduce,
                "every": WINDOW,
            }
            for metric, (unit, reduce) in METERS.items()
        ],
    }
