"""The judge of alerts: whatever the order of arrival, the alerts are those of the ordered log."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.model import alert_rule, alerts
from gateway.model.alert_rule import Above, AlertRule, Below, Changes, Condition, Equals, Outside
from gateway.model.alerts import Point, RuleState
from gateway.model.sample import Value
from tests.fixtures.judging import Device, law

SECOND = 1_000_000
CONDITIONS: tuple[Condition, ...] = (
    Above(limit=6),
    Above(limit=6, clear=3),
    Below(limit=3, clear=6),
    Outside(low=2, high=7, clear_low=4, clear_high=5),
    Equals(value=7),
    Changes(by=4, within=timedelta(seconds=5), rises=True),
    Changes(by=4, within=timedelta(seconds=3), rises=False),
)

rules = st.builds(
    lambda condition, lasts, hold_off: AlertRule(
        id="r",
        device="*",
        metric="t",
        condition=condition,
        lasts=timedelta(seconds=lasts),
        hold_off=timedelta(seconds=hold_off),
        kind="k",
    ),
    st.sampled_from(CONDITIONS),
    st.sampled_from([0, 0, 1, 3, 8]),
    st.sampled_from([0, 0, 2, 9]),
)
logs = st.dictionaries(st.integers(0, 40).map(lambda second: second * SECOND), st.integers(0, 9), min_size=1)


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[AlertRule, dict[int, Value], list[dict[int, Value]]]:
    """A rule, a final log, and slices in which it came: in any order, some values first wrong."""
    rule, log = draw(rules), draw(logs)
    changes: list[tuple[int, Value]] = list(log.items())
    wrong = draw(st.lists(st.tuples(st.sampled_from(sorted(log)), st.integers(0, 9)), max_size=8))
    order: list[tuple[int, Value]] = draw(
        st.one_of(st.just(sorted(changes)), st.permutations(changes), _nearly(changes))
    )
    made: list[tuple[int, Value]] = list(order)
    for at, value in wrong:
        made.insert(
            draw(st.integers(0, next(i for i, c in enumerate(made) if c == (at, log[at])))), (at, value)
        )
    slices: list[dict[int, Value]] = []
    while made:
        size = draw(st.integers(1, 6))
        part: dict[int, Value] = {}
        while made and len(part) < size and made[0][0] not in part:
            at, value = made.pop(0)
            part[at] = value
        slices.append(part)
    return rule, log, slices


def _nearly(changes: list[tuple[int, Value]]) -> st.SearchStrategy[list[tuple[int, Value]]]:
    """In order but for a few."""
    ordered = sorted(changes)
    return st.lists(st.tuples(st.sampled_from(ordered), st.integers(0, len(ordered))), max_size=3).map(
        lambda moves: _moved(ordered, moves)
    )


def _moved(
    ordered: list[tuple[int, Value]], moves: list[tuple[tuple[int, Value], int]]
) -> list[tuple[int, Value]]:
    made = list(ordered)
    for item, place in moves:
        made.remove(item)
        made.insert(place, item)
    return made


@settings(max_examples=1500)
@given(arrivals())
def test_any_order_of_arrival_gives_the_alerts_of_the_ordered_log(
    made: tuple[AlertRule, dict[int, Value], list[dict[int, Value]]],
) -> None:
    rule, log, slices = made
    device = Device(rule=rule)
    for part in slices:
        device.slice(part)
    assert device.log == log
    assert device.shown() == law(rule, log)


@settings(max_examples=700)
@given(arrivals(), st.data())
def test_what_is_read_ahead_of_its_slice_changes_nothing(
    made: tuple[AlertRule, dict[int, Value], list[dict[int, Value]]], data: st.DataObject
) -> None:
    """The log is read while others write: a later slice's samples are seen already."""
    rule, log, slices = made
    device = Device(rule=rule)
    for number, part in enumerate(slices):
        ahead: dict[int, Value] = {}
        for later in slices[number + 1 : number + 1 + data.draw(st.integers(0, 3))]:
            ahead.update(later)
        device.slice(part, ahead=ahead)
    assert device.shown() == law(rule, log)


@settings(max_examples=300)
@given(arrivals())
def test_a_restart_changes_nothing(
    made: tuple[AlertRule, dict[int, Value], list[dict[int, Value]]],
) -> None:
    rule, log, slices = made
    device = Device(rule=alert_rule.from_document(alert_rule.to_document(rule)))
    assert device.rule == rule
    for part in slices:
        device.slice(part)
        device.state = alerts.from_document(alerts.to_document(device.state), device.state.at)
    assert device.shown() == law(rule, log)


@settings(max_examples=300)
@given(arrivals())
def test_a_slice_that_is_judged_twice_changes_nothing(
    made: tuple[AlertRule, dict[int, Value], list[dict[int, Value]]],
) -> None:
    rule, log, slices = made
    device = Device(rule=rule)
    for part in slices:
        device.slice(part)
        again = device.slice(part)
        assert not (again.withdrawn or again.moved or again.opened)
    assert device.shown() == law(rule, log)


def test_a_late_sample_is_judged_by_a_few_others_only() -> None:
    """The fold meets what was judged before: the rest of a long log is not read."""
    device = Device(rule=AlertRule(id="r", device="*", metric="t", condition=Above(limit=6), kind="k"))
    for second in range(10_000):
        device.slice({second * SECOND: 1})
    device.slice({500 * SECOND + 7: 9})
    assert device.shown() == [(500 * SECOND + 7, 500 * SECOND + 7, 501 * SECOND)]
    assert device.read < 10


@pytest.mark.parametrize("condition", CONDITIONS)
@given(values=st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_no_value_both_breaks_a_rule_and_clears_it(condition: Condition, values: list[int]) -> None:
    recent: tuple[tuple[int, float], ...] = ()
    for at, value in enumerate(values):
        recent = alert_rule.remember(condition, recent, at * SECOND, value)
        assert not (
            alert_rule.breaches(condition, value, recent) and alert_rule.clears(condition, value, recent)
        )


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9)), min_size=1, max_size=40),
    st.booleans(),
    st.sampled_from([1, 10]),
)
@example([(1, 5), (1, 5)], True, 1)
@example([(1, 3), (1, 7)], True, 10)  # 0.7 - 0.3 is less than 0.4 as doubles reckon
@example([(1, 7), (1, 3)], False, 10)
def test_a_change_is_compared_with_the_extreme_of_its_window(
    steps: list[tuple[int, int]], rises: bool, parts: int
) -> None:
    """`parts`: of one, that the values are told in."""
    condition = Changes(by=4 / parts, within=timedelta(seconds=5), rises=rises)
    recent: tuple[tuple[int, float], ...] = ()
    at, log = 0, []
    for gap, value in steps:
        at += gap * SECOND
        log.append((at, value))
        recent = alert_rule.remember(condition, recent, at, value / parts)
        window = [held for then, held in log if then >= at - 5 * SECOND]
        change = value - min(window) if rises else max(window) - value
        assert alert_rule.breaches(condition, value / parts, recent) is (change >= 4)


def test_for_hysteresis_and_hold_off_by_device_time() -> None:
    rule = AlertRule(
        id="r",
        device="*",
        metric="t",
        condition=Above(limit=90, clear=85),
        lasts=timedelta(seconds=10),
        hold_off=timedelta(seconds=60),
        kind="k",
    )
    log = {0: 91, 5: 92, 10: 93, 12: 88, 20: 84, 25: 95, 40: 95, 81: 95, 90: 80}
    points = [Point(at=second * SECOND, value=value) for second, value in log.items()]
    found = alerts.judge(rule, RuleState(), points).episodes
    times = [
        (e.since // SECOND, e.opened_at // SECOND, e.cleared_at and e.cleared_at // SECOND) for e in found
    ]
    # 88 clears nothing; 95 at 25 has lasted long enough at 40, and is held off until 80
    assert times == [(0, 10, 20), (25, 81, 90)]


def test_what_is_held_off_began_where_the_ordered_log_has_it() -> None:
    """A late sample among samples that are held off: what is building began long before `for`."""
    rule = AlertRule(
        id="r", device="*", metric="t", condition=Above(limit=6), hold_off=timedelta(seconds=9), kind="k"
    )
    device = Device(rule=rule)
    for second, value in ((0, 9), (10, 1), (12, 9), (14, 9), (18, 9), (17, 9), (20, 9)):
        device.slice({second * SECOND: value})
    assert device.shown() == [(0, 0, 10 * SECOND), (12 * SECOND, 20 * SECOND, None)]
