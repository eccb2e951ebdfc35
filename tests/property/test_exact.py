"""Every sink is told exactly the number of a reading, or the reading is refused: never another number."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connectors.http_json.mapping import to_values
from connectors.kit.odata.batch import BatchRequest
from connectors.kit.odata.values import Version
from connectors.kit.sap.documents import Fields, Form
from connectors.kit.sap.documents import to_operation as to_document
from connectors.maintainx.mapping import to_item
from connectors.odata.mapping import to_operation
from connectors.odata.settings import ODataSettings
from connectors.postgres.mapping import TableRow, to_row
from connectors.registry import SYSTEMS
from connectors.tryton.mapping import from_value, is_same, to_value
from gateway.model.outcome import Rejected
from gateway.model.reading import Reading

AT = datetime(2026, 11, 2, 9, 30, tzinfo=UTC)
ODATA = ODataSettings.model_validate({"base_url": "https://h", "service": "/s", "entity_set": "r"})
Sent = Callable[[Reading], object]


def _json(body: bytes, name: str) -> object:
    return json.loads(body, parse_float=Decimal, parse_int=Decimal)[name]


def _maintainx(reading: Reading) -> object:
    item = to_item(reading, None, system_time=None)
    return item if isinstance(item, Rejected) else _json(orjson.dumps(item), "value")


def _http_json(reading: Reading) -> object:
    values = to_values(reading, connection="c", time="iso")
    return values if isinstance(values, Rejected) else _json(orjson.dumps(dict(values)), "value")


def _odata(reading: Reading) -> object:
    made = to_operation(ODATA, reading)
    return _json(made.body or b"", "value") if isinstance(made, BatchRequest) else made


def _sap(version: Version) -> Sent:
    def sent(reading: Reading) -> object:
        form = Form(version=version, fields=Fields(), entity_set="M", zone=ZoneInfo("UTC"), reader="F")
        made = to_document(form, reading, "7", now=None, skew=timedelta(0))
        return _json(made.body or b"", Fields().value) if isinstance(made, BatchRequest) else made

    return sent


def _tryton(kind: str) -> Sent:
    def sent(reading: Reading) -> object:
        made = to_value(kind, reading.value)
        if isinstance(made, dict):
            assert (held := from_value(made)) is not None and is_same(reading.value, held)
            return Decimal(made["decimal"])
        return made if isinstance(made, Rejected) else _json(orjson.dumps({"v": made}), "v")

    return sent


def _postgres(reading: Reading) -> object:
    row = to_row(reading)
    return row.value if isinstance(row, TableRow) else row


SINKS: dict[str, Sent] = {
    "maintainx": _maintainx,
    "http_json": _http_json,
    "odata": _odata,
    "sap_s4hana": _sap(Version.V4),
    "sap_ecc": _sap(Version.V2),
    "tryton float": _tryton("float"),
    "tryton integer": _tryton("integer"),
    "tryton numeric": _tryton("numeric"),
    "postgres": _postgres,
}
EXACT_BEYOND = ("tryton numeric", "postgres")


def reading(value: float) -> Reading:
    return Reading(key="k" * 20, meter="7", window_start=AT, value=value)


def number(sent: object) -> Fraction:
    assert isinstance(sent, Decimal | float | int | str)
    return Fraction(Decimal(sent) if isinstance(sent, str) else sent)


def test_every_system_is_here() -> None:
    assert {name.split()[0] for name in SINKS} == set(SYSTEMS)


@pytest.mark.parametrize("sink", SINKS)
@given(value=st.integers() | st.integers(2**53 - 3, 2**53 + 3) | st.integers(-(10**25), 10**25))
@example(value=9007199254740993)
@example(value=89882390000123456789)
@example(value=1708703790535904509)
@example(value=10**400)
@example(value=2**53)
@example(value=2**63)
@example(value=-(2**53) - 1)
def test_a_whole_number_is_exact_or_refused(sink: str, value: int) -> None:
    sent = SINKS[sink](reading(value))
    if isinstance(sent, Rejected):
        assert sent.code == "not_exact" and abs(value) > 2**53
    else:
        assert number(sent) == value
        assert abs(value) <= 2**53 or sink in EXACT_BEYOND


@pytest.mark.parametrize("sink", SINKS)
@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_double_is_told_so_that_the_same_double_is_read(sink: str, value: float) -> None:
    sent = SINKS[sink](reading(value))
    if isinstance(sent, Rejected):
        assert sink == "tryton integer" and (not value.is_integer() or abs(value) > 2**53)
    else:
        assert float(number(sent)) == value


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(sink: str, value: float) -> None:
    sent = SINKS[sink](reading(value))
    assert isinstance(sent, Rejected) and sent.code == "not_finite"
