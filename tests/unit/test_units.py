"""Units by their names: each code is what the Recommendation says, conversions are exact, and what is no unit
or no way between two is said.
"""

from __future__ import annotations

import re
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway import units
from gateway.http.documents import ConnectionDocument
from gateway.meter_settings import MeterSettings
from gateway.model.arithmetic import Arithmetic, Conversion
from gateway.model.meter import MeterRule, made_of, to_document

# The factor to the SI unit of UN/ECE Recommendation 20, revision 17, as it is printed there (some to six digits).
RECOMMENDED = """
    CEL 1 K; FAH 5/9 K; KEL 1 K; MTR 1 m; KMT 1e3 m; CMT 1e-2 m; MMT 1e-3 m; 4H 1e-6 m; C45 1e-9 m; FOT 0.3048 m; INH 25.4e-3 m
    YRD 0.9144 m; SMI 1609.344 m; MTK 1 m2; CMK 1e-4 m2; MTQ 1 m3; DMQ 1e-3 m3; CMQ 1e-6 m3; LTR 1e-3 m3; MLT 1e-6 m3; HLT 1e-1 m3
    4G 1e-9 m3; GLL 3.785412e-3 m3; GLI 4.546092e-3 m3; FTQ 2.831685e-2 m3; INQ 16.387064e-6 m3; KGM 1 kg; GRM 1e-3 kg; MGM 1e-6 kg
    TNE 1e3 kg; DTN 1e2 kg; LBR 0.45359237 kg; ONZ 2.834952e-2 kg; STN 0.9071847e3 kg; SEC 1 s; MIN 60 s; HUR 3600 s; DAY 86400 s
    WEE 6.048e5 s; C26 1e-3 s; B98 1e-6 s; MTS 1 m/s; KMH 0.277778 m/s; HM 0.44704 m/s; KNT 0.514444 m/s; FS 0.3048 m/s; 2M 1e-2 m/s
    MSK 1 m/s2; MQH 2.77778e-4 m3/s; MQS 1 m3/s; L2 1.66667e-5 m3/s; E32 2.77778e-7 m3/s; 2K 7.86579e-6 m3/s; 2L 4.719474e-4 m3/s
    PAL 1 Pa; KPA 1e3 Pa; MPA 1e6 Pa; A97 1e2 Pa; BAR 1e5 Pa; MBR 1e2 Pa; HBA 1e7 Pa; PS 6.894757e3 Pa; HN 133.3224 Pa; F79 3.38639e3 Pa
    HP 9.80665 Pa; F78 2.49089e2 Pa; C65 1 Pa*s; NEW 1 N; B47 1e3 N; NU 1 N*m; B48 1e3 N*m; KMQ 1 kg/m3; GP 1e-6 kg/m3; GQ 1e-9 kg/m3
    JOU 1 J; KJO 1e3 J; 3B 1e6 J; GV 1e9 J; WHR 3.6e3 J; KWH 3.6e6 J; MWH 3.6e9 J; GWH 3.6e12 J; BTU 1.055056e3 J; WTT 1 W; KWT 1e3 W
    MAW 1e6 W; BHP 7.457e2 W; HJ 735.49875 W; D54 1 W/m2; AMP 1 A; 4K 1e-3 A; AMH 3.6e3 C; E09 3.6 C; VLT 1 V; 2Z 1e-3 V; D82 1e-6 V
    KVT 1e3 V; OHM 1 ohm; B49 1e3 ohm; B75 1e6 ohm; SIE 1 S; D10 1 S/m; FAR 1 F; 4O 1e-6 F; 4T 1e-12 F; 81 1 H
    D46 1 VA; KVA 1e3 VA; MVA 1e6 VA; C79 1e3 VAh; D44 1 var; KVR 1e3 var; K3 1e3 varh; HTZ 1 Hz; KHZ 1e3 Hz; MHZ 1e6 Hz; RPM 1/60 s^-1
    RPS 1 s^-1; BPM 1/60 s^-1; DD 1.745329e-2 rad; C81 1 rad; P1 1e-2 1; 59 1e-6 1; 61 1e-9 1; C62 1 1; LUX 1 lx; LUM 1 lm; A24 1 cd/m2
"""
FACTORS = {
    code: (Fraction(factor) if "/" in factor else Fraction(Decimal(factor)), unit)
    for code, factor, unit in (
        row.split() for row in RECOMMENDED.replace("\n", ";").split(";") if row.strip()
    )
}


def test_every_code_is_what_the_recommendation_says() -> None:
    assert FACTORS.keys() == units.RECOMMENDATION_20.keys()
    for code, (factor, unit) in FACTORS.items():
        expression = units.RECOMMENDATION_20[code]
        # by the plain name, since a code may be another unit's name as well
        found = units._parsed(expression).factor / units._unit(unit).factor
        assert abs(found / factor - 1) < Fraction(1, 10**5), code
        assert units._parsed(expression).base == units._unit(unit).base, code


def test_a_code_that_is_another_units_name_is_taken_for_neither() -> None:
    ambiguous = {code for code in units.RECOMMENDATION_20 if len(units._meanings(code)) > 1}
    assert ambiguous == {"PS", "GP", "GV"}
    for code in ambiguous:
        with pytest.raises(units.UnitError, match="in Recommendation 20 and another unit"):
            units.conversion(code, "BAR")
        assert units.same(code, units.RECOMMENDATION_20[code])


@pytest.mark.parametrize(
    ("value", "source", "target", "reading"),
    [
        (212, "degF", "CEL", 100.0),
        (98.6, "FAH", "°C", 37.0),
        (-40, "°F", "°C", -40.0),
        (0, "CEL", "KEL", 273.15),
        (36.6, "Cel", "[degF]", 97.88),
        (3.6, "MJ", "KWH", 1.0),
        (1, "kW.h", "kJ", 3600.0),
        (14.5, "psi", "bar", 14.5 * 6894.757293168361 / 1e5),
        (60, "m3/h", "l/min", 1000.0),
        (1, "m³/h", "L2", 50 / 3),
        (1500, "rpm", "Hz", 25.0),
        (1, "lb", "kg", 0.45359237),
        (0.3, "%", "ppm", 3000.0),
        (7, "°F/min", "K/h", 7 * 100 / 3),
        (1.8, "delta_degF", "K", 1.0),
        (1200, "kVAh", "MVA*h", 1.2),
        (2**53 - 1, "km", "m", None),
        (2**53, "m", "m", float(2**53)),
        (1e308, "km", "nm", None),
    ],
)
def test_a_number_is_converted_exactly_or_refused(
    value: float, source: str, target: str, reading: float | None
) -> None:
    found = Arithmetic(conversion=units.conversion(source, target)).reading(value)
    assert found == (reading if reading is None or source != "psi" else pytest.approx(reading, rel=1e-12))


@given(hundredths=st.integers(-(10**7), 10**7))
def test_degrees_come_out_as_by_whole_numbers(hundredths: int) -> None:
    """(F - 32) * 5 / 9 in whole hundredths: the nearest double to that fraction, and back to what was sent."""
    exact = Fraction((hundredths - 3200) * 5, 900)
    value = float(Decimal(hundredths) / 100)
    assert Arithmetic(conversion=units.conversion("FAH", "CEL")).reading(value) == float(exact)
    there = units.conversion("CEL", "FAH")
    assert there.factor * exact + there.offset == Fraction(hundredths, 100)


METER = {"device": "d", "metric": "t", "meter": "m"}


@given(
    raw=st.integers(-(2**40), 2**40),
    scale=st.decimals(-1000, 1000, places=4).filter(bool),
    offset=st.decimals(-1000, 1000, places=3),
    ends=st.sampled_from([("degF", "CEL"), ("psi", "BAR"), ("min", "HUR"), ("kWh", "MJ")]),
)
def test_scale_and_offset_come_first_and_the_result_is_rounded_once(
    raw: int, scale: Decimal, offset: Decimal, ends: tuple[str, str]
) -> None:
    """What a device sends in tenths of a degree is a number of degrees, and then one of another unit."""
    given = {"scale": float(scale), "offset": float(offset), "from": ends[0], "to": ends[1], "reduce": "mean"}
    made = MeterSettings.model_validate(METER | given).arithmetic
    line = units.conversion(*ends)
    exact = line.factor * (Fraction(scale) * raw + Fraction(offset)) + line.offset
    assert made.reading(raw) == float(exact)
    assert made.reading(float(raw)) == float(exact)
    assert Arithmetic.from_document(made.to_document()) == made


@given(pair=st.permutations(["CEL", "FAH", "KEL"]), value=st.floats(-1e6, 1e6))
def test_ways_over_a_third_unit_are_one_way(pair: list[str], value: float) -> None:
    first, second, third = pair
    direct, start, rest = (
        units.conversion(*ends) for ends in ((first, third), (first, second), (second, third))
    )
    assert rest.factor * (start.factor * Fraction(value) + start.offset) + rest.offset == (
        direct.factor * Fraction(value) + direct.offset
    )


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("degX", "CEL", "'degX' is no unit that is known"),
        ("kwh", "MJ", "did you mean 'KWH'"),
        ("Psi", "BAR", "did you mean 'psi'"),
        ("degF", "bar", "not of one kind: kelvin against"),
        ("C", "F", "degrees Celsius are CEL"),
        ("kVA", "kW", "not of one kind: apparent_power"),
        ("kvar", "kVA", "not of one kind"),
        ("deg", "Hz", "not of one kind"),
        ("delta_degF", "degC", "one is a temperature, and the other a difference of two"),
        ("dBm", "mW", "no unit that is known"),
        ("x" * 41, "m", "no unit that is known"),
        ("m**99", "m", "no unit that is known"),
        ("m⁹⁹", "m", "no unit that is known"),
        ("9**9**9**9", "m", "no unit that is known"),
        ("1000 m", "km", "no unit that is known"),
        ("__import__('os')", "m", "no unit that is known"),
        ("", "m", "no unit that is known"),
    ],
)
def test_what_cannot_be_converted_is_said(source: str, target: str, said: str) -> None:
    with pytest.raises(units.UnitError) as refused:
        units.conversion(source, target)
    assert said in str(refused.value)


@given(name=st.text(st.sampled_from("mksVAhdegCF°%µ⁻¹²³0123456789*/^. ()[]_'\"{}x"), max_size=42))
def test_any_text_is_a_unit_or_a_fault(name: str) -> None:
    with suppress(units.UnitError):
        assert units.conversion(name, name) == Conversion(source=name, target=name, factor=Fraction(1))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"from": "degF"}, "`from` needs `to`"),
        ({"to": "CEL"}, "`to` needs `from`"),
        ({"from": "degF", "to": "grd"}, "'grd' is no unit that is known"),
        ({"from": "degF", "to": "BAR"}, "not of one kind"),
        ({"from": "lb", "to": "KGM", "reduce": "sum", "offset": 1}, "`offset` does nothing for reduce: sum"),
        ({"from": "SEC", "to": "HUR", "reduce": "min", "scale": -1}, "reduce by max instead"),
        ({"from": "degF", "to": "CEL", "reduce": "sum"}, "a sum of degF cannot be told in CEL"),
        ({"from": "m", "to": "km", "reduce": "count"}, "`from` and `to` do nothing for reduce: count"),
        ({"from": "m", "to": "km", "reduce": "cycles"}, "`from` and `to` do nothing for reduce: cycles"),
        ({"from": "degF", "to": "CEL", "unit": "FAH"}, "would be told FAH of numbers in CEL"),
        ({"from": "degF", "to": "CEL", "unit": "KWH"}, "would be told KWH of numbers in CEL"),
        ({"reduce": "run_time", "from": "SEC", "to": "HUR"}, "`to` is enough"),
        ({"reduce": "run_time", "unit": "KWH"}, "'KWH' is no unit of time"),
        ({"reduce": "run_time", "unit": "Std."}, "'Std.' is no unit of time"),
        ({"reduce": "run_time", "to": "KWH"}, "not of one kind"),
    ],
)
def test_units_that_are_half_said_or_do_not_fit_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        MeterSettings.model_validate(METER | given)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("given", "told", "said"),
    [
        ({"from": "degF", "to": "CEL"}, "CEL", "degF to CEL (times 5/9, plus -160/9)"),
        ({"from": "degF", "to": "CEL", "unit": "°C"}, "°C", "degF to CEL (times 5/9, plus -160/9)"),
        ({"from": "degF", "to": "CEL", "unit": "Grad"}, "Grad", "degF to CEL (times 5/9, plus -160/9)"),
        (
            {"from": "degF", "to": "CEL", "scale": 0.1, "offset": -40},
            "CEL",
            "times 0.1, plus -40, degF to CEL (times 5/9, plus -160/9)",
        ),
        ({"from": "degF", "to": "CEL", "reduce": "delta"}, "CEL", "degF to CEL (times 5/9)"),
        ({"from": "MJ", "to": "GJ", "unit": "GV", "reduce": "sum"}, "GV", "MJ to GJ (times 1/1000)"),
        ({"reduce": "run_time", "unit": "HUR"}, "HUR", ""),
        ({"reduce": "run_time", "unit": "SEC"}, "SEC", ""),
        ({"reduce": "run_time"}, None, ""),
        ({"reduce": "run_time", "to": "HUR"}, "HUR", ""),
        ({"reduce": "run_time", "unit": "h"}, "h", "SEC to h (times 1/3600)"),
        ({"reduce": "run_time", "to": "HUR", "unit": "Std."}, "Std.", "SEC to HUR (times 1/3600)"),
        ({"reduce": "run_time", "unit": "DAY"}, "DAY", "SEC to DAY (times 1/86400)"),
    ],
)
def test_the_system_is_told_the_unit_of_the_readings(
    given: dict[str, object], told: str | None, said: str
) -> None:
    meter = MeterSettings.model_validate(METER | given)
    assert (meter.told_unit, str(meter.arithmetic)) == (told, said)


@pytest.mark.parametrize(
    "given",
    [
        {"from": "degF", "to": "CEL", "unit": "°C", "max_silence": "24h", "deadband": 0.5},
        {"reduce": "run_time", "to": "HUR", "unit": "Std.", "hold": "2h"},
        {"valid": [0, 40], "scale": 0.1, "offset": -5, "every": "1h"},
        {"scale": 0.1, "offset": -40, "from": "degF", "to": "CEL", "reduce": "mean"},
        {"reduce": "delta", "rollover": 65536, "reset_below": 10},
    ],
)
def test_what_the_api_shows_of_a_meter_is_what_it_takes(given: dict[str, object]) -> None:
    def rule(settings: MeterSettings) -> MeterRule:
        return MeterRule(
            device="d", metric="t", meter="m", unit=settings.told_unit, reduce=settings.reduce,
            every=settings.every, deadband=settings.deadband, max_silence=settings.max_silence,
            arithmetic=settings.arithmetic,
        )  # fmt: skip

    made = rule(MeterSettings.model_validate(METER | given))
    (shown,) = ConnectionDocument._as_given([to_document(made)])
    assert rule(MeterSettings.model_validate(shown)) == made
    assert made_of([made], made.every) != made_of([MeterRule(device="d", metric="t", meter="m")], made.every)


def test_the_page_names_every_code_and_what_is_ours() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    section = page[page.index("\n### Units") : page.index("\n## Reload")]
    assert {*units.RECOMMENDATION_20, *units.OTHER_NAMES} <= set(re.findall("`([^`]+)`", section))
