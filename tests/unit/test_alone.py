"""`fieldgate explain` tells the number that the sync would tell, of the window that a sample alone makes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from gateway.meter_settings import MeterSettings
from gateway.model.alone import alone
from gateway.model.connector import Capabilities
from gateway.model.meter import MeterRule, apply_rule
from gateway.model.sample import Value

START = datetime(2026, 11, 29, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "value", "reading"),
    [
        ({"from": "degF", "to": "CEL"}, 212, 100.0),
        ({"from": "degF", "to": "CEL", "scale": 0.1, "reduce": "mean"}, 2120, 100.0),
        ({"from": "degF", "to": "CEL", "reduce": "max"}, 41.5, 9.5 * 5 / 9),
        ({"scale": 0.1}, 3, 0.3),
        ({"from": "lb", "to": "KGM", "reduce": "sum"}, 10, 4.5359237),
        ({}, True, True),
        ({"reduce": "mean"}, True, 1.0),
        ({}, "on", "on"),
        ({"reduce": "count"}, "on", 1),
        ({"reduce": "time_weighted_mean"}, 4, 4.0),
        ({"reduce": "delta"}, 41, None),
        ({"reduce": "cycles"}, True, None),
        ({"reduce": "run_time"}, True, None),
    ],
)
def test_the_reading_is_what_a_window_of_this_sample_makes(
    given: dict[str, object], value: Value, reading: Value | None
) -> None:
    found = _alone(given, value, frozenset({"number", "boolean", "text"}))
    assert (found.reading, type(found.reading), found.refused) == (reading, type(reading), None)


@pytest.mark.parametrize(
    ("given", "value", "said"),
    [
        ({"from": "degF", "to": "CEL"}, "hot", "no number for last"),
        ({"valid": [0, 40]}, 41, "outside valid"),
        ({"from": "km", "to": "m"}, 2**53 - 1, "not_exact"),
        ({"reduce": "mean"}, 2**60 + 1, "not_exact"),
        ({}, "on", "unsupported_value"),
    ],
)
def test_what_is_refused_has_no_reading(given: dict[str, object], value: Value, said: str) -> None:
    found = _alone(given, value, frozenset({"number"}))
    assert found.reading is None
    assert said in str(found.refused)


def test_a_system_of_numbers_takes_a_boolean_as_one() -> None:
    assert _alone({}, True, frozenset({"number"})).reading == 1.0


def _alone(given: dict[str, object], value: Value, values):  # type: ignore[no-untyped-def]
    made = MeterSettings.model_validate({"device": "d", "metric": "t", "meter": "m", **given})
    rule = MeterRule(
        device="d", metric="t", meter="m", reduce=made.reduce, unit=made.told_unit, arithmetic=made.arithmetic
    )
    mapping = apply_rule(rule, "d", resolution=timedelta(microseconds=1))
    return alone("c", mapping, value, START, Capabilities(push="bulk_partial", values=values))
