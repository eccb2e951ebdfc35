"""Rules to mappings: globs, templates, conflicts, and windows that a system can tell apart."""

from __future__ import annotations

from datetime import timedelta

import pytest

from gateway.model import meter
from gateway.model.meter import MeterRule, MetersRefused, apply_rule, materialise

TICK = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)


def rule(device: str = "*", metric: str = "t", meter: str = "{device}.{metric}", **more: object) -> MeterRule:
    return MeterRule(device=device, metric=metric, meter=meter, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "device", "matches"),
    [
        ("boiler", "boiler", True),
        ("boiler", "boiler-1", False),
        ("boiler-*", "boiler-1", True),
        ("boiler-?", "boiler-12", False),
        ("[ab]1", "b1", True),
        ("[ab]1", "c1", False),
        ("Boiler-*", "boiler-1", False),
        ("*", "anything", True),
        ("a.c", "abc", False),
    ],
)
def test_a_rule_matches_whole_ids_and_cases(pattern: str, device: str, matches: bool) -> None:
    assert rule(pattern).matches(device) is matches


def test_a_template_names_device_and_metric() -> None:
    mappings, conflicts = materialise([rule()], ["a", "b"], resolution=TICK)
    assert list(mappings) == ["a.t", "b.t"] and conflicts == []
    assert (mappings["a.t"].device, mappings["a.t"].metric) == ("a", "t")


def test_a_rule_for_one_device_needs_no_device_yet() -> None:
    mappings, _ = materialise([rule("unborn"), rule("glob-*")], [], resolution=TICK)
    assert list(mappings) == ["unborn.t"]


def test_the_first_rule_feeds_a_meter_and_the_other_is_told() -> None:
    mappings, conflicts = materialise(
        [rule(meter="one"), rule("b", "u", meter="one")], ["a", "b"], resolution=TICK
    )
    assert (mappings["one"].device, mappings["one"].metric) == ("a", "t")
    assert [(c.refused.device, c.refused.metric) for c in conflicts] == [("b", "t"), ("b", "u")]
    assert "'one' is already fed by a/t; b/t is ignored" in str(conflicts[0])


def test_a_later_rule_for_the_same_feed_is_no_conflict() -> None:
    special = rule("a", every=2 * MINUTE)
    mappings, conflicts = materialise([special, rule(every=5 * MINUTE)], ["a", "b"], resolution=TICK)
    assert conflicts == [] and {meter: m.window for meter, m in mappings.items()} == {
        "a.t": 2 * MINUTE,
        "b.t": 5 * MINUTE,
    }


def test_the_order_of_devices_changes_nothing() -> None:
    assert materialise([rule(meter="one")], ["b", "a"], resolution=TICK) == materialise(
        [rule(meter="one")], ["a", "b"], resolution=TICK
    )


@pytest.mark.parametrize(
    ("reduce", "every", "resolution", "window"),
    [
        ("mean", 15 * MINUTE, TICK, 15 * MINUTE),
        ("mean", timedelta(seconds=1), MINUTE, MINUTE),
        ("each", timedelta(0), TICK, TICK),
        ("each", timedelta(0), MINUTE, MINUTE),
    ],
)
def test_a_window_is_never_finer_than_the_system(
    reduce: str, every: timedelta, resolution: timedelta, window: timedelta
) -> None:
    assert apply_rule(rule(reduce=reduce, every=every), "d", resolution=resolution).window == window


def test_rules_times_devices_are_bounded() -> None:
    rules = [rule("*", meter=f"{{device}}-{number}") for number in range(100)]
    devices = [f"d{number}" for number in range(100)]
    mappings, refused = materialise(rules, devices, resolution=TICK, limit=250)
    assert len(mappings) == 250 and [str(found)[:40] for found in refused] == [
        "rules and devices make more than 250 met"
    ]
    mappings, refused = materialise(rules, devices, resolution=TICK, limit=10_000)
    assert len(mappings) == 10_000 and refused == []


def test_patterns_are_compared_a_bounded_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "MAX_COMPARISONS", 1_000)
    rules = [rule(f"nothing-{number}-*") for number in range(100)]
    mappings, refused = materialise(rules, [f"d{number}" for number in range(100)], resolution=TICK)
    assert not mappings and isinstance(refused[0], MetersRefused)
