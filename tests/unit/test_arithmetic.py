"""Scale and offset as a person reckons them, limits, and rules that would do nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.meter_settings import MeterSettings
from gateway.model.arithmetic import PLAIN, Arithmetic, is_above_by, misfit
from gateway.model.meter import (
    MAX_HELD_WINDOWS,
    REDUCTIONS,
    MeterRule,
    apply_rule,
    from_document,
    made_of,
    refusal,
    to_document,
)

TICK = timedelta(microseconds=1)
finite = st.floats(-1e9, 1e9, allow_nan=False)
rules = st.builds(
    MeterRule,
    device=st.just("d"),
    metric=st.just("t"),
    meter=st.just("m"),
    create=st.booleans(),
    unit=st.none() | st.just("Cel"),
    deadband=st.sampled_from([0.0, 0.5]),
    every=st.sampled_from([timedelta(minutes=15), timedelta(hours=1)]),
    reduce=st.sampled_from(["last", "delta"]),
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
    assert Arithmetic(scale=scale, offset=offset).reading(float(value)) == reading


@given(value=st.integers(-(10**6), 10**6), digits=st.integers(0, 6), offset=st.integers(-1000, 1000))
def test_decimals_come_out_as_they_are_written(value: int, digits: int, offset: int) -> None:
    wanted = Decimal(value).scaleb(-digits) + offset
    assert Arithmetic(scale=float(f"1e-{digits}"), offset=float(offset)).reading(float(value)) == float(
        wanted
    )


@given(
    numbers=st.tuples(finite, finite, st.floats(0, 1e9))
    | st.tuples(*[st.integers(-(10**7), 10**7).map(lambda number: number / 1000)] * 2, st.just(0.001))
    | st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20)).map(
        lambda tenths: (tenths[0] / 10, tenths[1] / 10, tenths[2] / 10)
    )
)
def test_how_far_numbers_are_apart_is_reckoned_as_people_do(numbers: tuple[float, float, float]) -> None:
    number, other, by = numbers
    exact = Fraction(repr(number)) - Fraction(repr(other)) >= Fraction(repr(by))
    assert is_above_by(number, other, by) is exact


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
        ("last", Arithmetic(scale=2.0), "on", "no number for last"),
        ("mean", Arithmetic(valid=(0.0, 40.0)), True, None),
    ],
)
def test_explain_says_which_value_is_not_used(
    reduce: str, arithmetic: Arithmetic, value: float | str, said: str | None
) -> None:
    rule = MeterRule(device="d", metric="t", meter="m", reduce=reduce, arithmetic=arithmetic)  # type: ignore[arg-type]
    found = refusal(apply_rule(rule, "d", resolution=TICK), value)
    assert found is None if said is None else said in str(found)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_what_each_reduction_can_use(reduce: str) -> None:
    """Texts and booleans as they are, booleans as 0 and 1, or numbers only."""

    def uses(value: float | str, arithmetic: Arithmetic) -> bool:
        rule = MeterRule(device="d", metric="t", meter="m", reduce=reduce, arithmetic=arithmetic)  # type: ignore[arg-type]
        return refusal(apply_rule(rule, "d", resolution=TICK), value) is None

    as_they_are = reduce in {"last", "first", "each"}
    for arithmetic in (PLAIN, Arithmetic(scale=2.0), Arithmetic(offset=1.0)):
        plain = arithmetic == PLAIN
        assert uses("on", arithmetic) is (reduce == "count" or (as_they_are and plain))
        assert uses(True, arithmetic) is (reduce != "delta" and (plain or not as_they_are))
        assert uses(1.5, arithmetic)


@pytest.mark.parametrize(
    ("value", "is_used"),
    [(-40.5, False), (-40, True), (0, True), (85.0, True), (85.1, False), ("99", True), (True, True)],
)
def test_limits_are_of_numbers_and_belong_to_what_is_used(value: float | str, is_used: bool) -> None:
    assert Arithmetic(valid=(-40.0, 85.0)).uses(value) is is_used
    assert PLAIN.uses(value)


LEVELS = {"last", "first", "each", "mean", "time_weighted_mean", "min", "max"}
MEANT_FOR = {
    "scale": LEVELS | {"sum", "delta", "cycles"},
    "offset": LEVELS,
    "rollover": {"delta"},
    "reset_below": {"delta"},
    "threshold": {"run_time", "cycles"},
    "hold": {"run_time", "time_weighted_mean"},
    "valid": set(REDUCTIONS),
}
PARTS = {
    "scale": 2.0,
    "offset": 1.0,
    "rollover": 65536.0,
    "reset_below": 10.0,
    "threshold": 0.5,
    "hold": timedelta(minutes=1),
    "valid": (0.0, 1.0),
}


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_refused_where_it_would_do_nothing(part: str, reduce: str) -> None:
    found = misfit(Arithmetic(**{part: PARTS[part]}), reduce)  # type: ignore[arg-type]
    assert (found is None) is (reduce in MEANT_FOR[part])
    assert found is None or (part in found and reduce in found)


@pytest.mark.parametrize(
    ("arithmetic", "reduce", "advice"),
    [
        (Arithmetic(scale=-1.0), "min", "max"),
        (Arithmetic(scale=-1.0), "max", "min"),
        (Arithmetic(scale=-1.0), "mean", None),
        (Arithmetic(scale=0.5), "min", None),
        (Arithmetic(scale=0.5), "max", None),
        (Arithmetic(scale=0.0), "min", "every reading the same"),
        (Arithmetic(valid=(1.0, 1.0)), "mean", None),
        (Arithmetic(valid=(1.1, 1.0)), "mean", "lowest"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(
    arithmetic: Arithmetic, reduce: str, advice: str | None
) -> None:
    found = misfit(arithmetic, reduce)
    assert found is None if advice is None else (found is not None and advice in found.rpartition("by ")[2])


def test_what_is_done_to_a_value_is_said_with_its_numbers() -> None:
    assert str(PLAIN) == ""
    each = {part: str(Arithmetic(**{part: value})) for part, value in PARTS.items()}  # type: ignore[arg-type]
    assert [part for part, said in each.items() if not said] == ["hold"]
    for part, numbers in {"scale": "2", "offset": "1", "rollover": "65536", "reset_below": "10", "threshold": "0.5", "valid": "0 to 1"}.items():  # fmt: skip
        assert numbers in each[part]
    together = str(Arithmetic(**PARTS))  # type: ignore[arg-type]
    assert together.split(", ") == [
        each[part] for part in ("valid", "rollover", "reset_below", "threshold", "scale", "offset")
    ]


@given(rule=rules)
def test_a_meter_is_as_its_rule_has_it(rule: MeterRule) -> None:
    made = apply_rule(rule, "d", resolution=TICK)
    for name in ("device", "metric", "meter", "unit", "reduce", "deadband", "create", "max_silence"):
        assert getattr(made, name) == getattr(rule, name)
    assert made.window == rule.every and made.arithmetic == replace(rule.arithmetic, hold=None)


def test_samples_that_a_system_cannot_tell_apart_share_a_window() -> None:
    rule = MeterRule(device="d", metric="t", meter="m", reduce="each", every=timedelta(hours=1))
    assert apply_rule(rule, "d", resolution=timedelta(seconds=1)).window == timedelta(seconds=1)
