"""Alert rules as they are written, checked and explained; the table of an alert's life."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from gateway.alerts import call
from gateway.configuration import Faults, load
from gateway.configuration.schema import connections_schema
from gateway.ingest.explain import Connected, explain
from gateway.model.alert_life import ALERT_TABLE, FOLLOWED_STATES, AlertState, AlertTrigger, alert_row
from gateway.model.alert_rule import (
    Above,
    AlertRule,
    Changes,
    Condition,
    Equals,
    Outside,
    Silent,
    from_document,
    to_document,
    worded,
)
from gateway.model.connector import Capabilities, Manifest
from gateway.model.meter import MeterRule
from gateway.settings import TelemetrySettings

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")


class System:
    settings_model = credentials_model = Loose

    def __init__(self, raises: Mapping[str, str | None], *, makes: bool = False) -> None:
        self.manifest = Manifest(
            system="s",
            title="System",
            tier=1,
            hosting=("cloud",),
            capabilities=Capabilities(push="bulk_partial", can_create_meter=makes),
            raises=raises,
            reauthorization="r",
        )


def loaded(folder: Path, alerts: str, *, meters: str = "[]", system: System | None = None) -> Any:
    (folder / "main.yaml").write_text(
        'security: {encryption_keys: ["${env:KEY}"]}\ncustomers: [acme]\nconnections_file: c.yaml\n'
    )
    (folder / "c.yaml").write_text(
        f"connections:\n  - {{id: c, customer: acme, system: s, meters: {meters}, alerts: {alerts}}}\n"
    )
    systems = {"s": system or System({"notification": "notifications", "task": None})}
    return load(
        folder / "main.yaml", {"KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}, systems=systems
    ).connections[0]


def rule(**written: object) -> str:
    return json.dumps([{"id": "r", "device": "*", "metric": "t", "raise": "task", **written}])


@pytest.mark.parametrize(
    ("written", "condition"),
    [
        ({"above": 90}, Above(limit=90)),
        ({"above": 0, "clear_below": -5}, Above(limit=0, clear=-5)),
        ({"outside": [1, 5]}, Outside(low=1, high=5, clear_low=1, clear_high=5)),
        ({"outside": [1, 5], "clear_inside": [2, 4]}, Outside(low=1, high=5, clear_low=2, clear_high=4)),
        ({"equals": True}, Equals(value=True)),
        ({"equals": False}, Equals(value=False)),
        ({"equals": 0}, Equals(value=0)),
        ({"equals": "fault"}, Equals(value="fault")),
        ({"rises_by": 3, "within": "10m"}, Changes(by=3, within=timedelta(minutes=10), rises=True)),
        ({"falls_by": 3, "within": "1d"}, Changes(by=3, within=timedelta(days=1), rises=False)),
        ({"silent_for": "1h", "metric": None}, Silent(after=timedelta(hours=1))),
    ],
    ids=str,
)
def test_a_condition_is_what_is_written_and_what_is_stored(
    tmp_path: Path, written: dict[str, object], condition: Condition
) -> None:
    (found,) = loaded(tmp_path, rule(**written)).alerts
    assert found.condition == condition
    assert type(getattr(found.condition, "value", None)) is type(getattr(condition, "value", None))
    assert from_document(to_document(found)) == found


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ({}, "an alert has one condition"),
        ({"above": 1, "below": 0}, "an alert has one condition"),
        ({"above": 90, "clear_below": 95}, "clear_below: at most"),
        ({"below": 5, "clear_above": 1}, "clear_above: at least"),
        ({"outside": [5, 1]}, "the lower end first"),
        ({"outside": [1, 5], "clear_inside": [0, 3]}, "clear_inside: within"),
        ({"above": 1, "clear_above": 0}, "goes with below"),
        ({"rises_by": 1}, "needs `within`"),
        ({"rises_by": 0, "within": "1m"}, "greater than 0"),
        ({"rises_by": 1, "within": "2d"}, "within: at most 1d"),
        ({"above": 1, "for": "8d"}, "for: at most 7d"),
        ({"above": 1, "hold_off": "31d"}, "hold_off: at most 30d"),
        ({"above": 1, "within": "1m"}, "`within` goes with"),
        ({"above": 1, "metric": None}, "needs the metric"),
        ({"silent_for": "1h", "for": "1m"}, "`silent_for` says itself"),
        ({"silent_for": "0s"}, "at least 1s"),
        ({"above": float("inf")}, "finite"),
        ({"above": 1, "raise": "tusk"}, "System does not raise 'tusk', did you mean 'task'?"),
        ({"above": 1, "title": "{devise}"}, "unknown placeholder {devise}"),
        ({"above": 1, "device": "a b"}, "no device can have the id"),
        ({"above": 1, "severity": "urgent"}, "severity"),
        ({"above": 1, "abov": 1}, "abov"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_with_its_place(
    tmp_path: Path, written: dict[str, object], fault: str
) -> None:
    with pytest.raises(Faults) as found:
        loaded(tmp_path, rule(**written))
    text = str(found.value)
    assert fault.partition(", did")[0] in text
    assert "c.yaml" in text


def test_a_system_that_raises_nothing_takes_no_alert_and_one_that_makes_no_meter_none_to_make(
    tmp_path: Path,
) -> None:
    with pytest.raises(Faults, match="System raises nothing"):
        loaded(tmp_path, rule(above=1), system=System({}))
    meters = '[{device: "*", metric: t, meter: "{device}", create: true}]'
    with pytest.raises(Faults, match="System makes no meters"):
        loaded(tmp_path, "[]", meters=meters)
    assert loaded(tmp_path, "[]", meters=meters, system=System({}, makes=True)).rules[0].create


def test_ids_are_unique(tmp_path: Path) -> None:
    two = rule(above=1)[:-1] + ", " + rule(above=2)[1:]
    with pytest.raises(Faults, match="ids are unique in a connection"):
        loaded(tmp_path, two)


def test_the_schema_knows_the_keys_as_they_are_written() -> None:
    schema: Any = connections_schema({})
    keys = schema["$defs"]["AlertSettings"]["properties"]
    assert {"for", "raise", "above", "silent_for"} <= keys.keys()
    assert not {"lasts", "kind"} & keys.keys()


def test_words_are_filled_in_once_and_bounded() -> None:
    made = AlertRule(
        id="r",
        device="*",
        metric="t",
        condition=Above(limit=1),
        kind="k",
        title="{device} {value} {since}",
        text="{metric}" * 2000,
    )
    title, text = worded(made, device="{value}", value="{since}", since=NOW)
    assert title == "{value} {since} 2026-03-01 12:00:00Z"
    assert len(text) == 2000
    silent = replace(made, condition=Silent(after=timedelta(hours=1)), metric=None, title="", text="")
    on = AlertRule(id="on", device="d", metric="on", condition=Equals(value=True), kind="task")
    _, text = worded(on, device="d", value=True, since=NOW)
    assert text.startswith("on of d is true, and has been equal to true since")
    assert worded(silent, device="d", value="", since=NOW) == (
        "d is silent",
        "Nothing was received from d since 2026-03-01 12:00:00Z (silent for 1h).",
    )


@pytest.mark.parametrize(
    ("condition", "payload", "holds", "distance"),
    [
        (Above(limit=90), "80", False, "10 more is the limit of 90"),
        (Above(limit=90), "95.5", True, "95.5 is above 90"),
        (Equals(value="x"), '"y"', False, "is not 'x'"),
        (Equals(value=True), "true", True, "equals true"),
        (Equals(value=True), "false", False, "is not true"),
        (Outside(low=0, high=9, clear_low=0, clear_high=9), "7", False, "2 from the ends of [0, 9]"),
        (
            Changes(by=3, within=timedelta(minutes=5), rises=True),
            "7",
            None,
            "a rise by 3 within 5m is the limit",
        ),
    ],
)
def test_explain_says_which_alerts_a_message_touches_and_how_far_it_is(
    condition: Condition, payload: str, holds: bool | None, distance: str
) -> None:
    made = AlertRule(
        id="hot", device="pump-*", metric="t", condition=condition, kind="task", lasts=timedelta(minutes=5)
    )
    connected = Connected(
        connection="c",
        customer="acme",
        system="s",
        rules=(),
        capabilities=Capabilities(push="bulk_partial"),
        lateness=timedelta(0),
        alerts=(made, replace(made, id="other", device="press-*"), replace(made, id="p", metric="p")),
    )
    found = explain(
        "acme/devices/pump-1/telemetry",
        b'{"t": %s}' % payload.encode(),
        telemetry=TelemetrySettings(),
        customers=["acme"],
        connections=[connected, replace(connected, customer="globex")],
        now=NOW,
    )
    (touched,) = found.samples[0].alerts
    assert (touched.rule, touched.holds, touched.lasts_seconds) == ("hot", holds, 300)
    assert distance in touched.distance


def test_every_state_comes_to_an_end_whatever_ends_it() -> None:
    """From each state that waits for nobody, each end of an alert leads to `cleared`."""
    for state in set(AlertState) - {AlertState.CLEARED, AlertState.PENDING, AlertState.RAISING}:
        for trigger in (AlertTrigger.WELL, AlertTrigger.WITHDRAWN, AlertTrigger.ENDED):
            row = alert_row(state, trigger)
            assert row is not None and row.target is AlertState.CLEARED
    assert alert_row(AlertState.PENDING, AlertTrigger.WELL) is None, "what happened is raised all the same"
    assert alert_row(AlertState.RAISING, AlertTrigger.WELL) is None, "the system is asked first"
    assert {row.source for row in ALERT_TABLE if row.trigger is AlertTrigger.SEEN_CLOSED} == FOLLOWED_STATES
    assert len({(row.source, row.trigger) for row in ALERT_TABLE}) == len(ALERT_TABLE)


@pytest.mark.parametrize(
    ("device", "metric", "meter"),
    [
        ("press", "temp", "press temp"),
        ("press", None, "press hours"),
        ("oven", None, ""),
        ("oven", "load", "oven load"),
    ],
)
def test_an_alert_names_the_meter_that_a_pattern_makes(device: str, metric: str | None, meter: str) -> None:
    rules = (
        MeterRule(device="*", metric="*", meter="{device} {metric}"),
        MeterRule(device="press", metric="on", meter="{device} hours"),
    )
    link: Any = SimpleNamespace(rules=rules)
    alert: Any = SimpleNamespace(device=device, metric=metric)
    assert call._meter(link, alert) == meter
