"""What a sample says to an alert rule, and that what is said names the numbers and the spans."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from gateway.model.alert_life import ALERT_TABLE, AlertState, AlertTrigger, alert_row
from gateway.model.alert_rule import (
    MAX_NUMBER,
    Above,
    AlertRule,
    Below,
    Changes,
    Condition,
    Equals,
    Outside,
    Silent,
    breaches,
    distance,
    observed,
    summary,
    worded,
)
from gateway.model.sample import Value
from tools.diagrams import alert_diagram

MINUTE = timedelta(minutes=1)
ABOVE, BELOW = Above(limit=90), Below(limit=10)
OUTSIDE = Outside(low=2, high=8, clear_low=3, clear_high=7)
RISES = Changes(by=3, within=5 * MINUTE, rises=True)
FALLS = Changes(by=3, within=90 * MINUTE, rises=False)
SILENT = Silent(after=timedelta(days=2))


def rule(condition: Condition, *, metric: str | None = "t", lasts: timedelta = timedelta(0)) -> AlertRule:
    return AlertRule(id="r", device="*", metric=metric, condition=condition, kind="k", lasts=lasts)


@pytest.mark.parametrize("condition", [ABOVE, BELOW, OUTSIDE, RISES, Equals(value=1), SILENT], ids=str)
@pytest.mark.parametrize(
    ("value", "is_number"),
    [(0, True), (1.5, True), (MAX_NUMBER / 2, True), (MAX_NUMBER, False), (-MAX_NUMBER, False), (10**400, False), (True, False), ("x", False)],
)  # fmt: skip
def test_where_a_number_is_compared_only_numbers_say_something(
    condition: Condition, value: Value, is_number: bool
) -> None:
    takes_all = isinstance(condition, Equals | Silent)
    assert observed(rule(condition), {"t": value}) == (value if is_number or takes_all else None)
    assert observed(rule(condition), {"other": value}) is None


def test_without_a_metric_every_sample_breaks_a_silence() -> None:
    assert observed(rule(SILENT, metric=None), {}) is True
    assert observed(rule(ABOVE, metric=None), {"t": 95}) is None


@pytest.mark.parametrize(
    ("condition", "value", "numbers"),
    [
        (ABOVE, 95.5, ["95.5", "above", "90"]),
        (ABOVE, 90, ["0 more", "90"]),
        (ABOVE, 80, ["10 more", "90"]),
        (BELOW, 4, ["4", "below", "10"]),
        (BELOW, 10, ["0 less", "10"]),
        (BELOW, 13, ["3 less", "10"]),
        (OUTSIDE, 1, ["1", "outside", "[2, 8]"]),
        (OUTSIDE, 2, ["0 from", "[2, 8]"]),
        (OUTSIDE, 8, ["0 from", "[2, 8]"]),
        (OUTSIDE, 4, ["2 from", "[2, 8]"]),
        (OUTSIDE, 7, ["1 from", "[2, 8]"]),
        (Equals(value="x"), "x", ["equals", "'x'"]),
        (Equals(value="x"), "y", ["is not", "'x'"]),
        (Equals(value=1), True, ["is not", "1"]),
        (RISES, 1, ["rise", "3", "5m"]),
        (FALLS, 1, ["fall", "3", "90m"]),
        (SILENT, 1, ["2d"]),
        (ABOVE, "x", ["nothing"]),
        (OUTSIDE, "x", ["nothing"]),
    ],
)
def test_how_far_a_value_is_from_a_condition(condition: Condition, value: Value, numbers: list[str]) -> None:
    said = distance(rule(condition), value)
    found = [re.search(rf"(?<![\w.]){re.escape(number)}(?!\w)", said) for number in numbers]
    assert all(found), said
    places = [one.start() for one in found if one is not None]
    assert places == sorted(places), said
    if isinstance(condition, Above | Below | Outside) and not isinstance(value, str):
        assert any(word in said.split() for word in ("above", "below", "outside")) is breaches(
            condition, value, ()
        )


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (ABOVE, ["above", "90"]),
        (BELOW, ["below", "10"]),
        (OUTSIDE, ["outside", "[2, 8]"]),
        (Equals(value="x"), ["equal", "'x'"]),
        (RISES, ["rising", "3", "5m"]),
        (FALLS, ["falling", "3", "90m"]),
        (SILENT, ["silent", "2d"]),
    ],
)
def test_a_condition_in_words_has_its_numbers_and_how_long_it_lasts(
    condition: Condition, words: list[str]
) -> None:
    said = summary(rule(condition))
    assert [word for word in words if word not in said.split() and word not in said] == []
    lasting = {seconds: summary(rule(condition, lasts=timedelta(seconds=seconds))) for seconds in (1, 60, 90, 3600, 5400, 86_400, 129_600)}  # fmt: skip
    spans = ["1s", "1m", "90s", "1h", "90m", "1d", "36h"]
    assert list(lasting.values()) == [f"{said} for {span}" for span in spans]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1.0, "1"), (0.1, "0.1"), (1 / 3, "0.333333333333333"), (7, "7"), (True, "true"), (False, "false"), ("On", "On"), ("x" * 200, "x" * 100)],
)  # fmt: skip
def test_a_value_in_words_is_as_a_device_would_write_it(value: Value, shown: str) -> None:
    made = AlertRule(
        id="r",
        device="*",
        metric="t",
        condition=ABOVE,
        kind="k",
        title="{value}",
        text="{metric} {odd} {device}",
    )
    since = datetime(2026, 3, 1, 13, tzinfo=timezone(timedelta(hours=1)))
    assert worded(made, device="d", value=value, since=since) == (shown, "t {odd} d")
    title, text = worded(rule(ABOVE), device="d", value=value, since=since)
    assert all(part in title for part in ("d", "t", shown))
    assert all(part in text for part in ("d", shown, "above 90", "2026-03-01 12:00:00Z"))
    nameless = AlertRule(id="r", device="*", metric=None, condition=SILENT, kind="k", title="{metric}")
    assert worded(nameless, device="d", value="", since=since.astimezone(UTC))[0] == "-"


def test_each_line_of_the_table_applies_to_its_state_and_trigger_only() -> None:
    lines = {(row.source, row.trigger): row for row in ALERT_TABLE}
    for state in AlertState:
        for trigger in AlertTrigger:
            assert alert_row(state, trigger) is lines.get((state, trigger))


def test_the_diagram_of_an_alert_has_each_line_of_the_table_once() -> None:
    lines = [line.strip() for line in alert_diagram().splitlines()]
    assert (lines[0], lines[1], lines[-1]) == ("stateDiagram-v2", "[*] --> pending", "cleared --> [*]")
    assert lines[2:-1] == [f"{row.source} --> {row.target}: {row.trigger}" for row in ALERT_TABLE]
