"""Units by their names, and how a number of one becomes a number of another: exactly, in fractions of pint's
definitions. The only user of pint, which is loaded when the first two units are named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gateway.model.arithmetic import Conversion

if TYPE_CHECKING:
    from pint import UnitRegistry

MAX_LENGTH = 40

_CODES = """
CEL=degC FAH=degF KEL=K
MTR=m KMT=km CMT=cm MMT=mm 4H=µm C45=nm FOT=ft INH=inch YRD=yd SMI=mile
MTK=m**2 CMK=cm**2 MTQ=m**3 DMQ=dm**3 CMQ=cm**3 LTR=l MLT=ml HLT=hl 4G=µl
GLL=US_liquid_gallon GLI=imperial_gallon FTQ=ft**3 INQ=inch**3
KGM=kg GRM=g MGM=mg TNE=metric_ton DTN=decitonne LBR=lb ONZ=oz STN=short_ton
SEC=s MIN=min HUR=h DAY=day WEE=week C26=ms B98=µs
MTS=m/s KMH=km/h HM=mile/h KNT=knot FS=ft/s 2M=cm/s MSK=m/s**2
MQH=m**3/h MQS=m**3/s L2=l/min E32=l/h 2K=ft**3/h 2L=ft**3/min
PAL=Pa KPA=kPa MPA=MPa A97=hPa BAR=bar MBR=mbar HBA=hectobar PS=psi HN=mmHg F79=inHg
HP=mmH2O F78=inH2O C65=Pa*s
NEW=N B47=kN NU=N*m B48=kN*m KMQ=kg/m**3 GP=mg/m**3 GQ=µg/m**3
JOU=J KJO=kJ 3B=MJ GV=GJ WHR=Wh KWH=kWh MWH=MWh GWH=GWh BTU=BTU
WTT=W KWT=kW MAW=MW BHP=hp HJ=metric_horsepower D54=W/m**2
AMP=A 4K=mA AMH=A*h E09=mA*h VLT=V 2Z=mV D82=µV KVT=kV
OHM=ohm B49=kohm B75=Mohm SIE=S D10=S/m FAR=F 4O=µF 4T=pF 81=H
D46=AVA KVA=kAVA MVA=MAVA C79=kAVA*h D44=RVA KVR=kRVA K3=kRVA*h
HTZ=Hz KHZ=kHz MHZ=MHz RPM=1/min RPS=1/s BPM=1/min DD=degree C81=radian
P1=percent 59=ppm 61=ppb C62=dimensionless LUX=lx LUM=lm A24=cd/m**2
"""
RECOMMENDATION_20 = dict(pair.split("=") for pair in _CODES.split())
"""Codes of UN/ECE Recommendation 20, each as pint has it."""

OTHER_NAMES: dict[str, str] = {
    "Cel": "degC",
    "[degF]": "degF",
    "[psi]": "psi",
    "[in_i]": "inch",
    "[ft_i]": "ft",
    "[mi_i]": "mile",
    "[lb_av]": "lb",
    "[oz_av]": "oz",
    "[gal_us]": "US_liquid_gallon",
    "[gal_br]": "imperial_gallon",
    "[ppm]": "ppm",
    "[ppb]": "ppb",
    "mm[Hg]": "mmHg",
    "[in_i'Hg]": "inHg",
    "m[H2O]": "mH2O",
    "[HP]": "hp",
    "rpm": "1/min",
    "rps": "1/s",
    "Nm": "N*m",
    "kNm": "kN*m",
    "1": "dimensionless",
}
"""UCUM's names where pint has another, and what people write where pint would understand something else."""

_SUPERSCRIPTS = {"⁻¹": "**-1", "⁻²": "**-2", "⁻³": "**-3", "²": "**2", "³": "**3"}
_LETTERS = "A-Za-zµμΩΩ_°"
_TERM = rf"[{_LETTERS}][{_LETTERS}0-9]*|%"
_EXPONENT = r"(?:(?:\*\*|\^)-?[1-9])?"
# Nothing else reaches pint: an exponent of many digits would be reckoned out.
_EXPRESSION = re.compile(
    rf"(?:1\s?/\s?)?(?:{_TERM}){_EXPONENT}(?:\s?[*/·. ]\s?(?:{_TERM}){_EXPONENT}){{0,5}}"
)
_CUBIC = re.compile(r"(?<=[a-zµμ])([23])(?![\w°])")
_POWER = {"VA": "AVA", "var": "RVA"}
_POWERS = re.compile(r"(?<![\w°])([kM]?)(VA|var)(h?)(?![\w°])")
_HINTS = {
    "C": "; C is the coulomb: degrees Celsius are CEL, degC or °C",
    "F": "; F is the farad: degrees Fahrenheit are FAH, degF or °F",
}


class UnitError(ValueError):
    """There is no such unit, or no way from one to the other. The text says which, and what to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """A number of it is `factor` times the number, plus `zero`, in its `base`: base units with exponents."""

    base: frozenset[tuple[str, Fraction]]
    factor: Fraction
    zero: Fraction
    is_difference: bool


@lru_cache(maxsize=1_000)
def conversion(source: str, target: str) -> Conversion:
    """How numbers in `source` become numbers in `target`. Raises UnitError."""
    start, end = _unit(source), _unit(target)
    if start.base != end.base:
        hint = _HINTS.get(source, "") or _HINTS.get(target, "")
        raise UnitError(f"{source} and {target} are not of one kind: {_kinds(start, end)}{hint}")
    if (start.zero and end.is_difference) or (end.zero and start.is_difference):
        raise UnitError(f"{source} and {target}: one is a temperature, and the other a difference of two")
    return Conversion(
        source=source,
        target=target,
        factor=start.factor / end.factor,
        offset=(start.zero - end.zero) / end.factor,
    )


def same(name: str, other: str) -> bool:
    """Whether the two may name one unit. A word that is no name of this module, and no unit of the other's
    kind, may be the system's own word for anything.
    """
    known, wanted = _meanings(name), _unit(other)
    is_ours = name in RECOMMENDATION_20 or name in OTHER_NAMES
    return wanted in known or not (is_ours or any(unit.base == wanted.base for unit in known))


def is_time(name: str) -> bool:
    """Whether it is a unit of time that is known."""
    return any(meaning.base == _unit("SEC").base for meaning in _meanings(name))


def _unit(name: str) -> _Unit:
    found = _meanings(name)
    if not found:
        raise UnitError(f"{name!r} is no unit that is known{_suggestion(name)}")
    if len(found) > 1:
        raise UnitError(
            f"{name} is {RECOMMENDATION_20[name].replace('**', '^')} in Recommendation 20 and another unit as"
            " a plain name: write the unit by its plain name, and in `unit` what the system is to be told"
        )
    return found[0]


@lru_cache(maxsize=1_000)
def _meanings(name: str) -> tuple[_Unit, ...]:
    """What the name may mean: nothing, one unit, or that of a code and another one."""
    if name in OTHER_NAMES:
        return (_parsed(OTHER_NAMES[name]),)
    found = [_parsed(RECOMMENDATION_20[name])] if name in RECOMMENDATION_20 else []
    try:
        plain = _parsed(_spelled(name))
    except UnitError:
        return tuple(found)
    return tuple(found) if plain in found else (*found, plain)


def _spelled(name: str) -> str:
    """The name as pint takes it. Raises UnitError where it cannot be one."""
    if len(name) > MAX_LENGTH:
        raise UnitError(f"a unit has at most {MAX_LENGTH} characters")
    for mark, exponent in _SUPERSCRIPTS.items():
        name = name.replace(mark, exponent)
    name = _CUBIC.sub(r"**\1", name.strip())
    if not _EXPRESSION.fullmatch(name):
        raise UnitError(f"{name!r} is no unit")
    name = _POWERS.sub(lambda found: f"{found[1]}{_POWER[found[2]]}{'*h' if found[3] else ''}", name)
    return name.replace("·", "*").replace("^", "**")


def _parsed(expression: str) -> _Unit:
    import pint

    registry = _registry()
    try:
        # compounds of temperatures are of differences: one degree more in a minute
        unit = registry.parse_units(expression, as_delta=True)
        zero, one, two = (_in_base(registry, number, unit) for number in (0, 1, 2))
        _, base = registry.get_root_units(unit, check_nonmult=False)
    except (pint.PintError, ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnitError(f"{expression!r} is no unit") from error
    if two - one != one - zero:
        raise UnitError(f"{expression!r} is a logarithm")
    exponents: dict[str, Any] = dict(base._units)
    return _Unit(
        base=frozenset((name, Fraction(exponent)) for name, exponent in exponents.items()),
        factor=one - zero,
        zero=zero,
        is_difference="delta_" in str(dict(unit._units)),
    )


def _in_base(registry: UnitRegistry[Any], number: int, unit: Any) -> Fraction:
    made: Any = registry.Quantity(Fraction(number), unit).to_root_units().magnitude
    if isinstance(made, float):
        raise ValueError("a definition that is no fraction")  # noqa: TRY004 - of the unit, not of a caller
    return Fraction(made)


@lru_cache(maxsize=1)
def _registry() -> UnitRegistry[Any]:
    import pint

    registry: UnitRegistry[Any] = pint.UnitRegistry(non_int_type=Fraction)
    # What a meter of apparent or reactive power shows is no number of watts.
    registry.define("ppb = 1e-9")
    registry.define("apparent_power_unit = [apparent_power] = AVA")
    registry.define("reactive_power_unit = [reactive_power] = RVA")
    return registry


def _kinds(start: _Unit, end: _Unit) -> str:
    return f"{_shown(start)} against {_shown(end)}"


def _shown(unit: _Unit) -> str:
    parts = [
        name if exponent == 1 else f"{name}^{exponent}"
        for name, exponent in sorted(unit.base, key=lambda part: (-part[1], part[0]))
    ]
    return "·".join(parts) or "a plain number"


def _suggestion(name: str) -> str:
    alike = [
        known
        for known in (*RECOMMENDATION_20, *OTHER_NAMES)
        if known.lower() == name.lower() and known != name
    ]
    if not alike and _meanings(name.lower()):
        alike = [name.lower()]
    if alike:
        return f"; did you mean {alike[0]!r}?"
    return ": write a code of Recommendation 20 (CEL, KWH, BAR) or a name such as degC, kWh, m3/h"
