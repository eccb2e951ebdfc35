"""Scale and offset as a person reckons them, limits, and rules that would do nothing."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.model.arithmetic import PLAIN, Arithmetic, scaled
from gateway.model.meter import (
    MAX_HELD_WINDOWS,
    MeterRule,
    apply_rule,
    from_document,
    made_of,
    refusal,
    to_document,
)
from gateway.settings import MeterSettings

TICK = timedelta(microseconds=1)
finite = st.floats(-1e9, 1e9, allow_nan=False)
rules = st.builds(
    MeterRule,
    device=st.just("d"),
    metric=st.just("t"),
    meter=st.just("m"),
    max_silence=st.none() | st.just(timedelta(hours=24)),
    arithmetic=st.builds(
        Arithmetic,
        scale=finite,
        offset=finite,
        rollover=st.none() | finite,
        reset_below=st.none() | finite,
        threshold=finite,
        valid=st.none() | st.tuples(finite, finite),
        hold=st.none() | st.just(timedelta(minutes=90)),
    ),
)


@pytest.mark.parametrize(
    ("value", "scale", "offset", "reading"),
    [
        (3, 0.1, 0.0, 0.3),
        (215, 0.1, -40.0, -18.5),
        (True, 2.0, 1.0, 3.0),
        (9 * 10**15, 10.0, 0.0, 9e16),
        (2**53 - 1, 1000.0, 0.0, None),
        (1e308, 1e10, 0.0, None),
        (5e-324, 0.1, 0.0, 0.0),
    ],
)
def test_a_reading_is_exact_or_refused(
    value: float, scale: float, offset: float, reading: float | None
) -> None:
    assert scaled(float(value), scale, offset) == reading


@given(value=st.integers(-(10**6), 10**6), digits=st.integers(0, 6), offset=st.integers(-1000, 1000))
def test_decimals_come_out_as_they_are_written(value: int, digits: int, offset: int) -> None:
    wanted = Decimal(value).scaleb(-digits) + offset
    assert scaled(float(value), float(f"1e-{digits}"), float(offset)) == float(wanted)


@given(rule=rules)
def test_a_stored_rule_is_read_back_and_is_another_rule_than_a_plain_one(rule: MeterRule) -> None:
    assert from_document(to_document(rule)) == rule
    plain = MeterRule(device="d", metric="t", meter="m")
    assert (made_of([rule], TICK) == made_of([plain], TICK)) is (rule == plain)


def test_what_was_stored_before_there_was_arithmetic_is_the_same_rule_of_the_same_digest() -> None:
    plain = MeterRule(device="d", metric="t", meter="m")
    assert to_document(plain).keys() == {"device", "metric", "meter", "unit", "reduce", "every", "deadband"}
    assert from_document(to_document(plain)).arithmetic == PLAIN


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"reduce": "count", "scale": 2}, "`scale` does nothing for reduce: count"),
        ({"reduce": "delta", "offset": 1}, "`offset` does nothing for reduce: delta"),
        ({"reduce": "sum", "offset": 1}, "`offset` does nothing for reduce: sum"),
        ({"reduce": "mean", "rollover": 65536}, "`rollover` does nothing for reduce: mean"),
        ({"reduce": "mean", "threshold": 1}, "it is for cycles, run_time"),
        ({"reduce": "min", "scale": -1}, "reduce by max instead"),
        ({"scale": 0}, "`scale: 0` makes every reading the same"),
        ({"valid": [5, 1]}, "`valid` is [lowest, highest]"),
        ({"max_silence": "24h"}, "`max_silence` is for a meter with a deadband"),
        ({"reduce": "run_time", "hold": "25h"}, "`hold` is a day and 1000 windows at most"),
        ({"reduce": "run_time", "every": "1s", "hold": "1h"}, "`hold` is a day and 1000 windows at most"),
        ({"scale": float("nan")}, "finite"),
        ({"valid": "5"}, "valid"),
    ],
)
def test_arithmetic_that_does_nothing_or_makes_no_sense_is_refused(
    given: dict[str, object], said: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        MeterSettings.model_validate({"device": "d", "metric": "t", "meter": "m", **given})
    assert said in str(refused.value)


def test_a_table_has_limits_in_one_cell() -> None:
    row = {"device": "d", "metric": "t", "meter": "m", "valid": "-40..85", "scale": "0.1"}
    assert MeterSettings.model_validate(row).arithmetic == Arithmetic(valid=(-40.0, 85.0), scale=0.1)


def test_a_value_is_held_over_a_bounded_number_of_windows() -> None:
    def hold(reduce: str, every: timedelta) -> timedelta | None:
        rule = MeterRule(device="d", metric="t", meter="m", reduce=reduce, every=every)  # type: ignore[arg-type]
        return apply_rule(rule, "d", resolution=TICK).arithmetic.hold

    assert hold("run_time", timedelta(hours=1)) == timedelta(days=1)
    assert hold("run_time", timedelta(seconds=1)) == MAX_HELD_WINDOWS * timedelta(seconds=1)
    assert hold("mean", timedelta(hours=1)) is None


@pytest.mark.parametrize(
    ("reduce", "arithmetic", "value", "said"),
    [
        ("mean", Arithmetic(valid=(0.0, 40.0)), 41.0, "outside valid"),
        ("mean", PLAIN, "41.2", "no number for mean"),
        ("last", PLAIN, "on", None),
        ("last", Arithmetic(scale=2.0), "on", "no number for last"),
        ("delta", PLAIN, True, "no number for delta"),
        ("run_time", PLAIN, True, None),
        ("count", PLAIN, "on", None),
    ],
)
def test_explain_says_which_value_is_not_used(
    reduce: str, arithmetic: Arithmetic, value: float | str, said: str | None
) -> None:
    rule = MeterRule(device="d", metric="t", meter="m", reduce=reduce, arithmetic=arithmetic)  # type: ignore[arg-type]
    found = refusal(apply_rule(rule, "d", resolution=TICK), value)
    assert found is None if said is None else said in str(found)
