"""Where alerts are seen: retained on a real broker while they are open, counted, listed by a command."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jsonschema
import orjson
import pytest

from benchmarks.servers import Mosquitto
from gateway import metrics
from gateway.events.backlog import Backlog
from gateway.store import alerts as stored_alerts
from gateway.store import status
from gateway.store.alerts import LAST_ALERT
from gateway.store.pool import Database
from gateway.store.views import END, Views
from tests.fixtures import programs
from tests.fixtures.alerting import rig_on
from tests.fixtures.sync_rig import BASE, MINUTE
from tests.integration.test_publisher import Watcher, publishing, watcher, watching

ROOT = Path(__file__).parents[2]
PLACE = "fieldgate/v1/customers/acme/connections/acme-1/alerts/"
__all__ = ["watcher"]


def alerts(watcher: Watcher) -> list[str]:
    return [topic for topic, payload in watcher.held.items() if topic.startswith(PLACE) and payload]


async def test_an_alert_is_retained_while_it_is_open(
    mosquitto: Mosquitto, database: Database, watcher: Watcher
) -> None:
    rig = await rig_on(database).activate()
    async with publishing(mosquitto.port, database, "one"):
        await rig.sent((BASE, 91))
        (alert,) = await rig.work()
        topic = f"{PLACE}{alert.alert}"
        await watcher.until(lambda: watcher.document(topic).get("state") == "raised")
        schema = orjson.loads((ROOT / "config" / "schemas" / "connection-alert.schema.json").read_bytes())
        jsonschema.validate(watcher.document(topic), schema)
        assert watcher.document(topic)["remote_id"] == "N0"
        await rig.record("N0", "acknowledged")
        await rig.work()
        await watcher.until(lambda: watcher.document(topic).get("state") == "acknowledged")
        await rig.sent((BASE + MINUTE, 10))
        await rig.work()
        await watcher.until(lambda: watcher.held[topic] == b"")
        await rig.store(("pump-1", BASE + MINUTE, 99))  # a correction: it goes on
        await rig.work()
        # and at the system it is acknowledged still
        await watcher.until(lambda: watcher.document(topic).get("state") == "acknowledged")
    async with watching(mosquitto.port) as later:
        await later.until(lambda: alerts(later) == [topic])


@pytest.mark.parametrize("how", ["cleared", "disconnected"])
async def test_an_alert_that_ended_while_nobody_spoke_is_emptied(
    mosquitto: Mosquitto, database: Database, watcher: Watcher, how: str
) -> None:
    rig = await rig_on(database).activate()
    await rig.sent((BASE, 91))
    await rig.work()
    async with publishing(mosquitto.port, database, "one"):
        await watcher.until(lambda: alerts(watcher))
    if how == "cleared":
        await rig.sent((BASE + MINUTE, 1))
        await rig.work()
    else:
        await rig.execute("update connection set state = 'disconnected', version = version + 1")
    async with publishing(mosquitto.port, database, "two"):
        await watcher.until(lambda: not alerts(watcher))


async def test_what_is_looked_at_each_second_does_not_grow_with_what_is_open(
    mosquitto: Mosquitto, database: Database, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await rig_on(database).activate()
    await rig.store(*((f"d-{number}", BASE, 99) for number in range(50)))
    await rig.execute("update connection set state = 'paused', prior_state = 'active'")
    await rig.work()
    async with publishing(mosquitto.port, database, "one"):
        await watcher.until(lambda: len(alerts(watcher)) == 50, 30)
        seen: list[int] = []
        read = stored_alerts.untold

        async def counted(*given: object) -> object:
            found = await read(*given)  # type: ignore[arg-type]
            seen.append(len(found.versions))
            return found

        monkeypatch.setattr(stored_alerts, "untold", counted)
        await watcher.until(lambda: seen[-2:] == [0, 0])
        await rig.execute("update alert set version = version + 1 where device_id = 'd-7'")
        await watcher.until(lambda: 1 in seen and seen[-1] == 0)
        assert max(seen) <= 50 and sum(seen) <= 51


async def test_open_alerts_are_counted_in_metrics_and_in_the_status(database: Database) -> None:
    rig = await rig_on(database).activate()
    before = metrics.ALERTS_RAISED.labels("medium")._value.get()
    await rig.sent((BASE, 91))
    await rig.work()
    await Backlog(database).refresh()
    assert metrics.ALERTS_OPEN.labels("medium")._value.get() == 1
    assert metrics.ALERTS_OPEN.labels("high")._value.get() == 0
    assert metrics.ALERTS_RAISED.labels("medium")._value.get() == before + 1
    (shown,) = await status.read(database, [rig.name])
    assert shown.open_alerts == 1
    version = shown.version
    await rig.sent((BASE + MINUTE, 1))
    await rig.work()
    (shown,) = await status.read(database, [rig.name])
    assert (shown.open_alerts, shown.version > version) == (0, True)


async def test_alerts_are_paged_without_gap_and_filtered(database: Database) -> None:
    rig = await rig_on(database).activate()
    await rig.store(*((f"d-{number}", BASE, 99) for number in range(7)))  # one instant: equal times
    await rig.work()
    views, seen, before = Views(database), list[str](), (LAST_ALERT, END)
    while page := await views.alerts(customer="acme", before=before, limit=2):
        seen += [alert.device for alert in page]
        before = (page[-1].alert, page[-1].created_at)
    assert sorted(seen) == [f"d-{number}" for number in range(7)]
    assert not await views.alerts(customer="globex", limit=10)
    assert not await views.alerts(customer="", limit=10)
    one = (await views.alerts(limit=1))[0]
    assert not await views.alerts(customer="globex", alert=one.alert, limit=1)
    assert len(await views.alerts(states=["raised"], connection_id=rig.name, limit=10)) == 7
    assert not await views.alerts(states=["cleared"], limit=10)


async def test_the_command_lists_them_for_people_and_programs(
    tmp_path: Path, database: Database, dsn: str
) -> None:
    rig = await rig_on(database).activate()
    await rig.sent((BASE, 91), (BASE + MINUTE, 1), (BASE + 2 * MINUTE, 99))
    await rig.work()
    configuration = tmp_path / "fieldgate.yaml"
    configuration.write_text(
        'security: {encryption_keys: ["${env:KEY}"]}\ndatabase: {dsn: "${env:DSN}"}\n'
        "customers: [globex]\nconnections_file: connections.yaml\n"
    )
    (tmp_path / "connections.yaml").write_text(  # whose secret a list of alerts has no use for
        "connections: [{id: other, customer: globex, system: maintainx,"
        ' credentials: {type: api_key, api_key: "${env:NOT_HERE}"}}]\n'
    )

    async def fieldgate(*arguments: str, fails: bool = False) -> str:
        environment = {"DSN": dsn, "KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "COLUMNS": "160"}
        done = await programs.run(
            "alerts", *arguments, "--config", str(configuration), env={**os.environ, **environment}
        )
        assert done.returncode == int(fails), done.stderr
        return done.stderr if fails else done.stdout

    people = await fieldgate()
    assert "pump-1: t is 99  raised" in people and "t is 91" not in people
    assert "rule hot, device pump-1" in people and "notification N" in people
    assert "the condition is over" in await fieldgate("--all")
    (found,) = json.loads(await fieldgate("--json", "--state", "cleared"))
    assert (found["why"], found["device"]) == ("well", "pump-1")
    assert await fieldgate("--customer", "globex") == "every alert is cleared\n"
    assert "there is no customer 'acmee'; did you mean 'acme'?" in await fieldgate(
        "--customer", "acmee", fails=True
    )
    assert "there is no connection 'nosuch'" in await fieldgate("--connection", "nosuch", fails=True)
