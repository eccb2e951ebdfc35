"""The OData kit and what SAP's connectors make of it: $batch, envelopes, values, targets, local time, codes,
logons. No sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.kit.answer import Answer
from connectors.kit.authorization import Basic, Bearer, CountingGate
from connectors.kit.odata import values
from connectors.kit.odata.batch import BatchRequest, UnreadableBatch, build, read
from connectors.kit.odata.envelope import ODataFault, fault_of, warnings_of
from connectors.kit.odata.query import entity_of, modified_within, next_of, rows_of, target
from connectors.kit.odata.values import Version
from connectors.kit.sap.codes import RefusalVerdict, verdict
from connectors.kit.sap.documents import Fields, Form, is_same, to_held, to_operation, to_questions
from connectors.kit.sap.local_time import wall_time
from connectors.sap_ecc.settings import EccSettings
from connectors.sap_s4hana.settings import S4hanaCredentials
from gateway.http.dashboard.credential_form import form_fields
from gateway.model.connector import RemoteReading
from gateway.model.errors import AuthRefused, Unavailable
from gateway.model.outcome import Rejected, Retry
from gateway.model.reading import Reading, reading_key

OK = Answer(status=200, headers={}, body=b"", json=None, request_id=None)
BERLIN = ZoneInfo("Europe/Berlin")
FORM = Form(
    version=Version.V4, fields=Fields(), entity_set="MeasurementDocument", zone=BERLIN, reader="FIELDGATE"
)


def reading(
    value: object = 1.0,
    at: datetime = datetime(2026, 11, 2, 10, tzinfo=UTC),
    *,
    meter: str = "3",
    unit: str | None = "GC",
) -> Reading:
    return Reading(key=reading_key("c", meter, at), meter=meter, window_start=at, value=value, unit=unit)  # type: ignore[arg-type]


# $batch


def test_each_change_is_a_changeset_of_its_own_and_a_query_is_none() -> None:
    body = build(
        [BatchRequest(target="Set", body=b'{"a":1}'), BatchRequest(target="Set?$top=1")], boundary="b"
    )
    assert (
        body == b"--b\r\nContent-Type: multipart/mixed; boundary=b_1\r\n\r\n--b_1\r\nContent-Type:"
        b" application/http\r\nContent-Transfer-Encoding: binary\r\nContent-ID: 1\r\n\r\nPOST Set"
        b" HTTP/1.1\r\nContent-Type: application/json\r\nAccept: application/json\r\nContent-Length:"
        b' 7\r\n\r\n{"a":1}\r\n--b_1--\r\n--b\r\nContent-Type:'
        b" application/http\r\nContent-Transfer-Encoding: binary\r\nContent-ID: 2\r\n\r\nGET Set?$top=1"
        b" HTTP/1.1\r\nAccept: application/json\r\n\r\n\r\n--b--\r\n"
    )


def part(status: str, body: str = "", content_id: str = "") -> str:
    head = (
        f"Content-Type: application/http\r\n{content_id}\r\n"
        if content_id
        else "Content-Type: application/http\r\n\r\n"
    )
    return f"{head}HTTP/1.1 {status}\r\nContent-Type: application/json\r\n\r\n{body}"


def nested(inner: str) -> str:
    return f"Content-Type: multipart/mixed; boundary=cs\r\n\r\n--cs\r\n{inner}\r\n--cs--\r\n"


def multipart(*parts: str, end: str = "--b--\r\n") -> bytes:
    return ("".join(f"--b\r\n{item}\r\n" for item in parts) + end).encode()


@pytest.mark.parametrize("newline", [b"\r\n", b"\n"])
def test_answers_are_mapped_by_position_nested_or_bare_and_a_missing_tail_is_none(newline: bytes) -> None:
    body = multipart(
        nested(part("201 Created", '{"d":{"n":"1"}}', "content-id: 1\r\n")),
        part("400 Bad Request", '{"error":{}}', "Content-ID: 2\r\n"),
        nested(part("409 Conflict")),
    )
    first, second, third, fourth = read(
        'multipart/mixed; boundary="b"', body.replace(b"\r\n", newline), expected=4
    )
    assert first is not None and second is not None and third is not None
    assert (first.status, first.json) == (201, {"d": {"n": "1"}})
    assert (second.status, second.json) == (400, {"error": {}})
    assert (third.status, third.json, fourth) == (409, None, None)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (multipart(part("201 Created"), end=""), "without its end"),
        (multipart(part("201 Created"))[:-20], "without its end"),
        (multipart(*[part("201 Created")] * 3), "3 answers to 2"),
        (multipart(part("201 Created", content_id="Content-ID: 2\r\n")), "belongs to operation '2'"),
        (multipart("Content-Type: application/http\r\n\r\nnonsense"), "no HTTP answer"),
        (multipart("Content-Type: multipart/mixed; boundary=cs\r\n\r\n--cs--\r\n"), "0 parts"),
        (multipart("Content-Type: multipart/mixed\r\n\r\n--cs--\r\n"), "without a boundary"),
        (b"", "without its end"),
    ],
)
def test_an_answer_that_cannot_be_trusted_says_nothing_of_any_operation(body: bytes, words: str) -> None:
    with pytest.raises(UnreadableBatch, match=words):
        read("multipart/mixed; boundary=b", body, expected=2)


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_make_the_reader_fail_otherwise(noise: bytes, framed: bool) -> None:
    body = b"--b\r\n" + noise + b"\r\n--b--" if framed else noise
    with contextlib.suppress(UnreadableBatch):
        assert len(read("multipart/mixed; boundary=b", body, expected=3)) == 3


def test_a_body_that_looks_like_a_delimiter_stays_inside_its_json() -> None:
    hostile = build(
        [BatchRequest(target="S", body=orjson.dumps({"text": "\r\n--b--\r\n--b_1--\r\n"}))], boundary="b"
    )
    assert hostile.count(b"\r\n--b--\r\n") == hostile.count(b"\r\n--b_1--\r\n") == 1


# Envelopes


def test_errors_of_both_versions_are_understood() -> None:
    four = {
        "error": {
            "code": "IR/1",
            "message": "No.",
            "details": [{"code": "IR/2", "message": "Because."}, {"code": "IR/1", "message": "No."}],
        }
    }
    two = {
        "error": {
            "code": "IR/1",
            "message": {"lang": "en", "value": "No."},
            "innererror": {"errordetails": [{"code": "IR/2", "message": "Because."}]},
        }
    }
    assert (
        fault_of(four, clean=str)
        == fault_of(two, clean=str)
        == ODataFault(codes=("IR/1", "IR/2"), message="No.; Because.")
    )


@pytest.mark.parametrize(
    "document",
    [
        None,
        7,
        [],
        {},
        {"error": None},
        {"error": "x"},
        {"error": {"message": 5, "details": 7}},
        {"error": {"innererror": []}},
    ],
)
def test_an_error_that_is_none_is_no_error_of_ours(document: object) -> None:
    fault = fault_of(document, text="plain\x00 words", clean=str)
    assert fault.code == "refused"
    assert fault.message in ("plain  words", "the system gave no reason")


def test_warnings_beside_a_success() -> None:
    assert (
        warnings_of({"sap-messages": '[{"code":"IR/9","message":"Limit","numericSeverity":3}]'})
        == "IR/9 Limit"
    )
    assert (
        warnings_of({"sap-message": '{"code":"IR/9","message":"Limit","severity":"warning"}'}) == "IR/9 Limit"
    )
    assert (
        warnings_of({})
        == warnings_of({"sap-messages": "no json"})
        == warnings_of({"sap-messages": "7"})
        == ""
    )


# Values and targets


def test_values_as_each_version_writes_them() -> None:
    day, at, instant = date(2026, 11, 2), time(16, 4, 23), datetime(2026, 11, 2, 16, 4, 23, tzinfo=UTC)
    assert values.encode_date(Version.V2, day) == "/Date(1793577600000)/"
    assert values.encode_date(Version.V4, day) == "2026-11-02"
    assert values.encode_time(Version.V2, at) == "PT16H04M23S"
    assert values.encode_time(Version.V4, at) == "16:04:23"
    assert values.date_literal(Version.V2, day) == "datetime'2026-11-02T00:00:00'"
    assert values.time_literal(Version.V2, at) == "time'PT16H04M23S'"
    assert values.instant_literal(Version.V2, instant) == "datetimeoffset'2026-11-02T16:04:23Z'"
    assert values.instant_literal(Version.V4, instant.astimezone(BERLIN)) == "2026-11-02T16:04:23Z"
    assert values.text_literal("o'hara") == "'o''hara'"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (600, "600"),
        (21.5, "21.5"),
        (-0.0, "-0.0"),
        (1e-7, "0.0000001"),
        (1e300, "1e+300"),
        (5e-324, "5e-324"),
        (2**53, str(2**53)),
    ],
)
def test_version_2_writes_numbers_as_texts(number: float, text: str) -> None:
    assert values.encode_number(Version.V2, number) == text
    assert values.decode_number(text) == number


@given(st.dates(), st.times(), st.sampled_from(Version))
def test_dates_and_times_come_back(day: date, at: time, version: Version) -> None:
    assert values.decode_date(values.encode_date(version, day)) == day
    assert values.decode_time(values.encode_time(version, at)) == at.replace(microsecond=0)


@pytest.mark.parametrize(
    "value",
    [None, 7, "", "x", "/Date()/", "/Date(99999999999999999)/", "PT99H", "25:00:00", "2026-13-01", [], {}],
)
def test_what_is_no_date_or_time_is_none(value: object) -> None:
    assert values.decode_date(value) is None
    assert values.decode_time(value) is None
    assert values.decode_instant(value) is None


def test_an_offset_of_version_2_is_for_display_only() -> None:
    assert values.decode_instant("/Date(1793577600000+0060)/") == datetime(2026, 11, 2, tzinfo=UTC)
    assert values.decode_instant("2026-11-02T01:00:00+01:00") == datetime(2026, 11, 2, tzinfo=UTC)
    assert values.decode_number("6.0000000000000000E+02") == 600.0
    assert [values.decode_number(value) for value in (True, "NaN", "INF", None, 10**400)] == [None] * 5


def test_a_target_is_encoded_so_that_no_name_escapes_its_quotes() -> None:
    made = target("Set", where="A eq 'x''y&$top=9#\r\n'", select=["A", "B"], order=["A"], top=2)
    assert made == "Set?$filter=A%20eq%20%27x%27%27y%26%24top%3D9%23%0D%0A%27&$select=A,B&$orderby=A&$top=2"
    assert target("Set") == "Set"
    until = datetime(2026, 11, 2, tzinfo=UTC)
    assert modified_within(Version.V4, "C", None, until) == "C lt 2026-11-02T00:00:00Z"
    assert (
        modified_within(Version.V4, "C", until - timedelta(days=1), until)
        == "C ge 2026-11-01T00:00:00Z and C lt 2026-11-02T00:00:00Z"
    )


def test_lists_of_both_versions_and_links_that_lead_nowhere_else() -> None:
    assert (
        rows_of({"value": [{"a": 1}, 7]})
        == rows_of({"d": {"results": [{"a": 1}]}})
        == rows_of({"d": [{"a": 1}]})
        == [{"a": 1}]
    )
    assert rows_of({"error": {}}) is rows_of(None) is rows_of({"d": {}}) is None
    assert entity_of({"d": {"a": 1}}) == entity_of({"a": 1}) == {"a": 1}
    assert (
        next_of({"@odata.nextLink": "http://inner.host/root/Set?$skiptoken=7"}, entity_set="Set")
        == "Set?$skiptoken=7"
    )
    assert (
        next_of({"d": {"results": [], "__next": "Set?$skiptoken=7"}}, entity_set="Set") == "Set?$skiptoken=7"
    )
    assert next_of({"value": []}, entity_set="Set") is None
    with pytest.raises(Unavailable):
        next_of({"@odata.nextLink": "http://elsewhere/Other?$skiptoken=7"}, entity_set="Set")


# SAP


def test_the_hour_that_comes_twice_keeps_order_and_loses_no_reading() -> None:
    begin = datetime(
        2026, 10, 24, 23, 30, tzinfo=UTC
    )  # clocks go back at 01:00 UTC on the 25th: 02:00 to 03:00 comes twice
    instants = [begin + timedelta(minutes=15 * number) for number in range(16)]
    walls = [wall_time(at, BERLIN) for at in instants]
    assert walls == sorted(set(walls))
    assert [f"{wall:%H:%M:%S}" for wall in walls[:12]] == [
        "01:30:00",
        "01:45:00",
        "02:00:00",
        "02:07:30",
        "02:15:00",
        "02:22:30",
        "02:30:00",
        "02:37:30",
        "02:45:00",
        "02:52:30",
        "03:00:00",
        "03:15:00",
    ]


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC)),
    st.integers(2, 7200),
    st.sampled_from(
        [
            "Europe/Berlin",
            "Australia/Lord_Howe",
            "America/New_York",
            "Asia/Kolkata",
            "Africa/Casablanca",
            "UTC",
        ]
    ),
)
def test_wall_times_never_go_backwards_and_two_seconds_stay_apart(
    at: datetime, seconds: int, zone: str
) -> None:
    at = at.replace(microsecond=0)
    assert wall_time(at, ZoneInfo(zone)) < wall_time(at + timedelta(seconds=seconds), ZoneInfo(zone))


def test_a_document_has_the_wall_time_the_entry_unit_and_our_key() -> None:
    made = to_operation(FORM, reading(21.5), "3", now=None, skew=timedelta(seconds=60))
    assert isinstance(made, BatchRequest) and made.body is not None
    assert orjson.loads(made.body) == {
        "MeasuringPoint": "3",
        "MsmtRdngDate": "2026-11-02",
        "MsmtRdngTime": "11:00:00",
        "MeasurementReadingInEntryUoM": 21.5,
        "MeasurementReadingEntryUoM": "GC",
        "MeasurementDocumentText": f"Fieldgate {reading().key}",
        "MsmtRdngByUser": "FIELDGATE",
    }


def test_no_negative_zero_is_sent() -> None:
    made = to_operation(FORM, reading(-0.0), "3", now=None, skew=timedelta(0))
    assert isinstance(made, BatchRequest) and made.body is not None
    assert b'"MeasurementReadingInEntryUoM":0.0' in made.body


def test_a_customers_own_names_and_absent_properties() -> None:
    own = {
        "number": "Mdocm",
        "meter": "Point",
        "date": "Idate",
        "time": "Itime",
        "value": "Recdv",
        "unit": "Recdu",
        "text": None,
        "reader": None,
        "reversed": None,
    }
    settings = EccSettings(
        base_url="https://ecc", client="100", service="/sap/opu/odata/sap/ZX", properties=own
    )  # type: ignore[arg-type]
    form = Form(version=Version.V2, fields=settings.fields, entity_set="Zset", zone=BERLIN, reader="X")
    made = to_operation(form, reading(21.5), "3", now=None, skew=timedelta(0))
    assert isinstance(made, BatchRequest) and made.body is not None
    assert orjson.loads(made.body) == {
        "Point": "3",
        "Idate": "/Date(1793577600000)/",
        "Itime": "PT11H00M00S",
        "Recdv": "21.5",
        "Recdu": "GC",
    }
    question = to_questions(form, [("3", datetime(2026, 11, 2, 11))])["3", "2026-11-02"].target
    assert "$select=Mdocm,Idate,Itime,Recdv" in question
    assert (
        "Point%20eq%20%273%27%20and%20Idate%20eq%20datetime%272026-11-02T00:00:00%27%20and%20Itime%20eq%20time%27PT11H00M00S%27"
        in question
    )
    held = to_held(
        form,
        "3",
        [{"Mdocm": "7", "Idate": "/Date(1793577600000)/", "Itime": "PT11H00M00S", "Recdv": "2.15E+01"}],
    )
    assert held == {
        ("3", datetime(2026, 11, 2, 11)): [
            RemoteReading(value=21.5, at=datetime(2026, 11, 2, 11), remote_id="7")
        ]
    }


@pytest.mark.parametrize(
    ("sent", "point", "code"),
    [
        (reading("text"), "3", "unsupported_value"),
        (reading(float("nan")), "3", "not_finite"),
        (reading(), "", "unknown_meter"),
        (reading(), "1234567890123", "unknown_meter"),
        (reading(), "a\0b", "unknown_meter"),
        (reading(), "\ud800", "unknown_meter"),
        (reading(unit="GRAD"), "3", "unknown_unit"),
        (reading(unit="\n"), "3", "unknown_unit"),
    ],
)
def test_what_sap_could_not_hold_is_not_sent(sent: Reading, point: str, code: str) -> None:
    refused = to_operation(FORM, sent, point, now=None, skew=timedelta(0))
    assert isinstance(refused, Rejected)
    assert refused.code == code


def test_what_lies_in_saps_future_waits_by_saps_clock() -> None:
    now = reading().window_start - timedelta(seconds=30)
    waiting = to_operation(FORM, reading(), "3", now=now, skew=timedelta(seconds=60))
    assert isinstance(waiting, Retry)
    assert waiting.after_seconds == 90
    assert isinstance(
        to_operation(FORM, reading(), "3", now=now + timedelta(seconds=90), skew=timedelta(seconds=60)),
        BatchRequest,
    )


def test_reversed_documents_do_not_count() -> None:
    row = {
        "MeasurementDocument": "7",
        "MsmtRdngDate": "2026-11-02",
        "MsmtRdngTime": "11:00:00",
        "MeasurementReadingInEntryUoM": 1.0,
    }
    assert to_held(FORM, "3", [{**row, "MsmtRdngIsReversed": True}]) == {}
    assert (
        len(to_held(FORM, "3", [{**row, "MsmtRdngIsReversed": False}, row])["3", datetime(2026, 11, 2, 11)])
        == 2
    )


def test_a_value_is_the_same_but_for_the_conversion_of_units() -> None:
    def held(value: float) -> RemoteReading:
        return RemoteReading(value=value, at=datetime(2026, 11, 2))

    assert is_same(reading(21.5), held(21.499999999999996))
    assert is_same(reading(True), held(1.0))
    assert is_same(reading(0.0), held(5.7e-14))
    assert not is_same(reading(21.5), held(21.6))
    assert not is_same(reading("21.5"), held(21.5))


@pytest.mark.parametrize(
    ("status", "codes", "configured", "expected"),
    [
        (400, ("IR/TIMESTAMP_DUPREC",), {}, RefusalVerdict.DUPLICATE),
        (400, ("/IWBEP/CX_MGW_BUSI_EXCEPTION", "IR/POINT_LOCKED"), {}, RefusalVerdict.LOCKED),
        (400, ("IR/TIMESTAMP_IN_FUTURE",), {}, RefusalVerdict.FUTURE),
        (400, ("IR/POINT_NOT_FOUND",), {}, RefusalVerdict.REFUSED),
        (400, ("IR/123",), {}, RefusalVerdict.UNSURE),
        (400, ("IR/123",), {"IR/123": "duplicate"}, RefusalVerdict.DUPLICATE),
        (400, ("X", "IR/POINT_LOCKED"), {"IR/POINT_LOCKED": "refused"}, RefusalVerdict.REFUSED),
        (423, (), {}, RefusalVerdict.LOCKED),
        (500, ("X",), {}, RefusalVerdict.LOCKED),
    ],
)
def test_verdicts(
    status: int, codes: tuple[str, ...], configured: Mapping[str, str], expected: RefusalVerdict
) -> None:
    assert verdict(status, ODataFault(codes=codes, message=""), configured) is expected


PEM = "-----BEGIN CERTIFICATE-----"


@pytest.mark.parametrize(
    "given",
    [
        {"username": "u"},
        {"username": "u", "password": "p", "client_id": "c"},
        {"certificate": PEM},
        {"token_url": "https://login.example/token", "client_id": "c"},
    ],
)
def test_credentials_are_of_one_kind_and_whole(given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="expected username and password"):
        S4hanaCredentials.model_validate(given)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("basic", ["username", "password"]),
        (
            "oauth2_client_credentials",
            ["token_url", "client_id", "client_secret", "scope", "client_authentication"],
        ),
        ("client_certificate", ["certificate", "private_key"]),
    ],
)
def test_a_form_for_new_credentials_asks_for_one_kind(kind: str, fields: list[str]) -> None:
    schema = S4hanaCredentials.model_json_schema(by_alias=True)
    assert [field.name for field in form_fields(schema, kind)] == fields
    values = {"token_url": "https://login.example/token", "certificate": PEM, "private_key": PEM}
    S4hanaCredentials.model_validate(
        {field.name: values.get(field.name, "x") for field in form_fields(schema, kind) if field.is_required}
    )


# Logons


class Tokens:
    def __init__(self) -> None:
        self.asked: list[str | None] = []

    async def access_token(self, *, refused: str | None = None) -> str:
        self.asked.append(refused)
        return f"token-{len(self.asked)}"


async def test_a_refused_token_is_refreshed_once_and_the_header_built_again() -> None:
    tokens, sent, hidden = Tokens(), [], []

    async def send(headers: Mapping[str, str]) -> Answer:
        sent.append(headers["authorization"])
        if len(sent) == 1:
            raise AuthRefused("401")
        return OK

    bearer = Bearer(tokens, conceal=hidden.append)
    assert await bearer.call(send) is OK
    assert sent == ["Bearer token-1", "Bearer token-2"]
    assert tokens.asked == [None, "token-1"]
    assert hidden == ["token-1", "token-2"]


async def test_a_token_refused_twice_is_the_credentials_end() -> None:
    tokens = Tokens()

    async def send(headers: Mapping[str, str]) -> Answer:
        raise AuthRefused("401")

    with pytest.raises(AuthRefused):
        await Bearer(tokens, conceal=lambda _: None).call(send)
    assert len(tokens.asked) == 2


async def test_a_wrong_password_is_sent_twice_at_most_by_however_many_tasks() -> None:
    basic, logons = Basic("u", "p", None), 0

    async def send(headers: Mapping[str, str]) -> Answer:
        nonlocal logons
        logons += 1
        await asyncio.sleep(0)
        raise AuthRefused("401")

    answers = await asyncio.gather(*(basic.call(send) for _ in range(50)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {AuthRefused}
    assert logons == 2
    with pytest.raises(AuthRefused, match="refused this user's logon twice"):
        await basic.call(send)
    assert logons == 2


async def test_a_cancelled_or_failed_call_gives_its_place_back() -> None:
    gate = CountingGate()
    for error in (Unavailable("503"), asyncio.CancelledError(), Unavailable("503")):
        with pytest.raises(type(error)):
            async with gate.attempt():
                raise error
    async with gate.attempt() as first, gate.attempt() as second:
        first.accepted()
        second.accepted()


async def test_after_one_failed_logon_only_one_more_is_under_way() -> None:
    """Otherwise two that were under way could fail after it: the third failure."""
    gate, order = CountingGate(), []
    release = asyncio.Event()

    async def attempt(name: str, wait: bool) -> None:
        async with gate.attempt() as logon:
            order.append(name)
            if wait:
                await release.wait()
                logon.accepted()
            else:
                logon.refused()

    slow = asyncio.create_task(attempt("slow", wait=True))
    await asyncio.create_task(attempt("refused", wait=False))
    third = asyncio.create_task(attempt("third", wait=True))
    for _ in range(5):
        await asyncio.sleep(0)
    assert order == ["slow", "refused"]
    release.set()
    await asyncio.gather(slow, third)
    assert order == ["slow", "refused", "third"]
