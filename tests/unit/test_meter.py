"""Rules to mappings: globs, templates, conflicts, and windows that a system can tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.meter import MeterRule, MetersRefused, apply_rule, materialise, tells_apart

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


def test_rules_are_compared_so_often_whatever_comes_of_it() -> None:
    """The same meter by each of many rules, and patterns of metrics over devices that send none."""
    devices = [f"d{number}" for number in range(1_000)]
    again = [rule(meter="{device}")] * 1_000
    mappings, refused = materialise(again, devices, resolution=TICK, max_comparisons=5_000)
    assert len(mappings) == 1_000 and [type(one) for one in refused] == [MetersRefused]
    silent = dict.fromkeys(devices, Counted())
    patterns = [rule(metric=f"t{number}*", meter="{device} {metric}") for number in range(100)]
    assert materialise(patterns, devices, resolution=TICK, metrics=silent) == ({}, [])
    assert Counted.looks == len(devices)


class Counted(list[str]):
    """Metrics of a device: none. It counts who looks."""

    looks = 0

    def __len__(self) -> int:
        Counted.looks += 1
        return 0

    def __iter__(self) -> Iterator[str]:
        Counted.looks += 1
        return iter(())


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


def test_patterns_are_compared_a_bounded_number_of_times() -> None:
    rules = [rule(f"nothing-{number}-*") for number in range(100)]
    mappings, refused = materialise(
        rules, [f"d{number}" for number in range(100)], resolution=TICK, max_comparisons=1_000
    )
    assert not mappings and isinstance(refused[0], MetersRefused)


@pytest.mark.parametrize(
    ("pattern", "metric", "is_fed"),
    [
        ("temp", "temp", True),
        ("temp", "temperature", False),
        ("temp*", "temperature", True),
        ("temp*", "Temperature", False),
        ("*", "a.b[0] °C\\%_", True),
        ("t?", "t1", True),
        ("t?", "t", False),
        ("phase[1].*", "phase[1].power", True),
        ("phase[1].*", "phase1.power", False),
        ("phase[1]", "phase[1]", True),
        ("phase[1]", "phase1", False),
        ("a*b", "a*b", True),
        ("a.c*", "abc", False),
    ],
)
def test_a_pattern_of_metrics_knows_stars_and_question_marks(pattern: str, metric: str, is_fed: bool) -> None:
    one = rule("boiler-*", pattern)
    assert one.feeds_from("boiler-1", metric) is is_fed
    assert not one.feeds_from("press-1", metric)


def test_a_pattern_of_metrics_makes_a_meter_of_each_that_is_known() -> None:
    mappings, conflicts = materialise(
        [rule("p*", "t*", "{device}/{metric}"), rule("a", "*", "a {metric}")],
        ["a", "p", "q"],
        resolution=TICK,
        metrics={"p": ["t2", "t1", "x"], "q": ["t1"], "a": ["x"]},
    )
    assert list(mappings) == ["p/t1", "p/t2", "a x"] and conflicts == []
    assert [(one.device, one.metric) for one in mappings.values()] == [("p", "t1"), ("p", "t2"), ("a", "x")]


def test_of_two_rules_for_one_metric_each_has_its_meter_and_for_one_meter_the_first_counts() -> None:
    rules = [
        rule("d", "temp", "{device} {metric}", every=2 * MINUTE),
        rule("*", "*", "{device} {metric}"),
        rule("*", "*", "{device} {metric} max", reduce="max"),
    ]
    mappings, conflicts = materialise(rules, ["d"], resolution=TICK, metrics={"d": ["temp", "hum"]})
    assert conflicts == [] and {name: (one.reduce, one.window) for name, one in mappings.items()} == {
        "d temp": ("last", 2 * MINUTE),
        "d hum": ("last", 15 * MINUTE),
        "d temp max": ("max", 15 * MINUTE),
        "d hum max": ("max", 15 * MINUTE),
    }


identifiers = st.from_regex(r"[ab][ab._-]{0,3}", fullmatch=True)
names = st.text(st.sampled_from("ab._-/ :"), min_size=1, max_size=4)
literals = st.text(st.sampled_from("ab._-/ :"), max_size=3)


@given(
    template=st.builds(
        "{}{}{}{}{}".format,
        literals,
        st.sampled_from(["{device}", "{metric}"]),
        literals,
        st.sampled_from(["{device}", "{metric}"]),
        literals,
    ),
    one=st.tuples(identifiers, names),
    other=st.tuples(identifiers, names),
)
def test_a_template_that_tells_apart_makes_no_two_meters_alike(
    template: str, one: tuple[str, str], other: tuple[str, str]
) -> None:
    if one != other and tells_apart(template):
        pattern = rule("*", "*", template)
        assert (
            apply_rule(pattern, *one, resolution=TICK).meter
            != apply_rule(pattern, *other, resolution=TICK).meter
        )


@pytest.mark.parametrize(
    ("template", "is_sure"),
    [
        ("{device} {metric}", True),
        ("{metric}/{device}", True),
        ("x{device}-: {metric}y", True),
        ("{device}.{metric}", False),
        ("{device}{metric}", False),
        ("{device}-_{metric} z", False),
        ("{device}", False),
        ("{metric}", False),
        ("{device} {metric} {metric}", False),
    ],
)
def test_what_stands_between_device_and_metric_decides(template: str, is_sure: bool) -> None:
    """`a.b` with `c` and `a` with `b.c` would both be `a.b.c`."""
    assert tells_apart(template) is is_sure
