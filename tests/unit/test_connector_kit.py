"""The kit's pure parts: the error table, waits, bisection, paging, manifests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import httpx
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import connectors
from connectors.kit.bisect import BadMeters, BatchRefusal, push_bisecting
from connectors.kit.classify import parse_clock, parse_retry_after, to_error, whole_number
from connectors.kit.inbound import key_of
from connectors.kit.json_text import parse_json, write_json
from connectors.kit.manifest import parse_manifest
from connectors.kit.paging import ListPage, walk
from connectors.kit.rate_limit import RateLimiter, limiter_for
from connectors.kit.settings import Block, parse, safe_url
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    ConfigError,
    ConnectorError,
    OutcomeUnknown,
    PermissionDenied,
    RateLimited,
    Unavailable,
)
from gateway.model.inbound import InboundRecord, Mended
from gateway.model.outcome import Accepted, Outcome, Rejected, Retry, Unknown
from gateway.model.reading import Reading, reading_key
from gateway.model.record import keep
from tests.fixtures.hostile import DATES

T0 = datetime(2026, 11, 2, 10, tzinfo=UTC)


def reading(number: int, meter: str | None = None) -> Reading:
    at = T0 + timedelta(seconds=number)
    name = meter or f"m{number}"
    return Reading(key=reading_key("c", name, at), meter=name, window_start=at, value=1.0)


@pytest.mark.parametrize(
    ("status", "idempotent", "retry_after", "kind"),
    [
        (301, True, None, BadConfiguration),
        (302, True, None, Unavailable),
        (302, False, None, OutcomeUnknown),
        (400, False, None, BadConfiguration),
        (401, False, None, AuthRefused),
        (403, False, None, PermissionDenied),
        (404, True, None, BadConfiguration),
        (405, True, None, BadConfiguration),
        (408, False, None, Unavailable),
        (425, False, None, Unavailable),
        (429, False, None, RateLimited),
        (429, False, 3.0, RateLimited),
        (500, True, None, Unavailable),
        (500, False, None, OutcomeUnknown),
        (502, False, None, OutcomeUnknown),
        (503, False, None, Unavailable),
        (503, False, 9.0, RateLimited),
        (504, False, None, OutcomeUnknown),
        (599, True, None, Unavailable),
    ],
)
def test_the_error_table(
    status: int, idempotent: bool, retry_after: float | None, kind: type[ConnectorError]
) -> None:
    error = to_error(status, "words", idempotent=idempotent, retry_after=retry_after, request_id="r-1")
    assert type(error) is kind
    assert error.request_id == "r-1"
    if isinstance(error, RateLimited):
        assert error.retry_after == (60.0 if retry_after is None else retry_after)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("999999999999", 999_999_999_999.0),
        ("9" * 40, 1e15),
        ("9" * 5000, 1e15),
        (
            "Fri, 31 Dec 9999 23:59:59 GMT",
            (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - T0).total_seconds(),
        ),
        ("Fri, 31 Dec 9999 23:59:59 -1200", None),
        ("Mon, 32 Foo 2026 25:61:61 GMT", None),
        ("1.5", None),
        ("50, 53", None),
        ("1e9", None),
        ("inf", None),
        ("\u00b2", None),
        ("Mon, 02 Nov 2026 10:00:07 GMT", 7.0),
        ("Mon, 02 Nov 2026 09:00:00 GMT", 0.0),
        ("-3", None),
        ("soon", None),
        ("٣", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_in_both_forms(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, answered_at=T0) == seconds


@given(
    st.one_of(
        st.text(max_size=40),
        st.sampled_from(DATES).flatmap(lambda date: st.text(max_size=6).map(date.__add__)),
    )
)
def test_any_header_is_a_finite_wait_or_none(text: str) -> None:
    seconds = parse_retry_after(text, answered_at=T0)
    assert seconds is None or 0.0 <= seconds < 1e16
    assert (number := whole_number(text)) is None or 0 <= number <= 10**15


@pytest.mark.parametrize(
    "date",
    [
        "Fri, 31 Dec 9999 23:59:59 -1200",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Mon, 01 Jan 0001 00:00:00 +1400",
        "soon",
        None,
    ],
)
def test_a_date_that_no_clock_shows_says_nothing_of_the_clock(date: str | None) -> None:
    assert parse_clock(date) is None
    assert parse_clock("Mon, 02 Nov 2026 10:00:00 GMT") == T0


@pytest.mark.parametrize(
    ("address", "good"),
    [
        ("https://host.example/path/", True),
        ("https://xn--bcher-kva.example:8443", True),
        ("https://[::1]:8443/x", True),
        ("http://127.0.0.1:1/x", True),
        ("https://host:99999", False),
        ("https://host:0", False),
        ("https://host:x", False),
        ("https://[half", False),
        ("https://b\u00fccher.example", False),
        ("https://host/a b", False),
        ("https://host/\u00a0", False),
        ("https://" + "a" * 64 + ".example", False),
        ("https://a..b", False),
        ("https://host/" + "x" * 2000, False),
        ("https://user:word@host", False),
        ("https://host/?a=b", False),
        ("http://host", False),
        ("", False),
    ],
)
def test_an_address_is_one_that_can_be_called(address: str, good: bool) -> None:
    if good:
        assert safe_url(address) == address.rstrip("/")
    else:
        with pytest.raises(ValueError):
            safe_url(address)


@given(st.one_of(st.text(max_size=30), st.text("abc:/@[]?#%.0 ", max_size=30).map("https://".__add__)))
def test_any_text_is_an_address_or_a_fault(text: str) -> None:
    with suppress(ValueError):
        assert httpx.URL(safe_url(text)).host


def test_a_limiter_is_not_closed_longer_than_an_hour() -> None:
    async def closed() -> float:
        limiter = RateLimiter(calls=1, seconds=1.0)
        limiter.close_for(999_999_999_999.0)
        with pytest.raises(RateLimited) as caught:
            await limiter.acquire(max_wait_seconds=0.0)
        return caught.value.retry_after

    assert 3590 < asyncio.run(closed()) <= 3600


@pytest.mark.parametrize(
    ("body", "document"),
    [
        (b"", None),
        (b" ", None),
        (b"\xef\xbb\xbf[1]", [1]),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b"NaN", None),
        (b"[1e400]", ["1e400"]),
        (b"[-1e400,Infinity]", None),
        (b'"\\ud800"', "\ufffd"),
        (
            b'{"a":"x\\ud800y","b":"\\ud83d\\ude00","\\udfff":1}',
            {"a": "x\ufffdy", "b": "\U0001f600", "\\udfff": 1},
        ),
        (b'["Caf\xe9"]', ["Caf\ufffd"]),
        (b"[" + b"9" * 301 + b"]", ["9" * 301]),
        (b'{"a":"\\ud800","b":' + b"[" * 300 + b"]" * 300 + b"}", None),
        (b"\xff", None),
        (b"[" * 1000 + b"]" * 1000, None),
        (b'{"a":' * 300 + b"1" + b"}" * 300, None),
        (b"[" * 2000, None),
        (b"[" + b"{}," * 200 + b"{}]", [{}] * 201),
    ],
)
def test_what_is_read_as_json_can_be_shown_and_written(body: bytes, document: object) -> None:
    assert parse_json(body) == document
    orjson.dumps(parse_json(body))


@given(
    st.recursive(
        st.integers(-(10**40), 10**40) | st.text() | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_numbers_and_texts_are_read_as_they_were_written(document: object) -> None:
    for written in (json.dumps(document), json.dumps(document, ensure_ascii=False, separators=(",", ":"))):
        assert parse_json(written.encode()) == document
    assert type(parse_json(b"[-9223372036854775809]")[0]) is int  # type: ignore[index]


@given(
    st.from_regex(r"-?(0|[1-9][0-9]{0,30})\.[0-9]{1,30}([eE][+-]?[0-9]{1,2})?", fullmatch=True),
    st.sampled_from(['{"n":%s}', '{"t":"1.5", "n": %s}', "[%s]", '{"a":[{"n":%s,"x":1}]}']),
)
@example("12345678901234567.89", '{"n":%s}')
@example("0.1000000000000000055511151231257827", '{"n":%s}')
@example("-0.0000000000000000000000000000001", "[%s]")
def test_a_decimal_is_written_as_the_number_that_was_read(text: str, around: str) -> None:
    """The very number, or what was printed from the double that is written."""
    document = parse_json((around % text).encode())
    kept = keep(InboundRecord(key="k", modified_at=None, body={"b": document}))
    assert kept.body == write_json({"b": document}, is_sorted=True) and not kept.truncated
    found: list[str] = []

    def note(number: str) -> float:
        found.append(number)
        return float(number)

    assert json.loads(kept.body, parse_float=note)["b"] == document == json.loads(around % text)
    digits = len(text.lower().lstrip("-").partition("e")[0].replace(".", "").lstrip("0"))
    assert Decimal(text) in (Decimal(found[0]), Decimal(f"{float(found[0]):.{max(0, digits - 1)}e}"))


def test_so_many_long_decimals_are_looked_at_and_no_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of 8 MiB may hold nothing else, and it is read at once."""
    monkeypatch.setattr("connectors.kit.json_text.MAX_LOOKED_AT", 2)
    lost = "12345678901234567.89"
    for before, kept in (
        ("", lost),
        ("0.1," * 9, lost),
        ("0.30000000000000004," * 2, "1.2345678901234568e+16"),
    ):
        made = parse_json(f"[{before}{lost}]".encode())
        assert isinstance(made, list) and repr(made[-1]) == kept


def test_what_no_number_can_hold_is_a_text_that_says_so() -> None:
    for text in ("1e999", "-1e999", "0.12345678901234567890e-400", f"0.{'123456789' * 40}"):
        made = parse_json(b"[%s]" % text.encode())
        assert made == [text] and isinstance(made, list) and isinstance(made[0], Mended)


def test_long_keys_stay_apart() -> None:
    rows = parse_json(b'[{"id":123456789012345678901},{"id":123456789012345678902}]')
    assert isinstance(rows, list)
    assert [key_of([row["id"]], row) for row in rows] == ["123456789012345678901", "123456789012345678902"]
    unnamed = parse_json(b'[{"n":123456789012345678901},{"n":123456789012345678902}]')
    assert isinstance(unnamed, list) and len({key_of([], row) for row in unnamed}) == 2


def test_a_date_without_the_answers_own_date_is_not_judged_by_our_clock() -> None:
    assert parse_retry_after("Mon, 02 Nov 2026 10:00:07 GMT", answered_at=None) is None


@given(bad=st.sets(st.integers(0, 63)), size=st.integers(1, 64), max_calls=st.integers(8, 200))
def test_bisection_names_exactly_the_culprits_in_order_with_bounded_calls(
    bad: set[int], size: int, max_calls: int
) -> None:
    readings = [reading(number) for number in range(size)]
    culprits = {readings[number].key for number in bad if number < size}
    sent: list[str] = []
    calls = 0

    async def send(part: Sequence[Reading]) -> Sequence[Outcome]:
        nonlocal calls
        calls += 1
        if any(item.key in culprits for item in part):
            raise BatchRefusal("bad meter", code="404")
        sent.extend(item.key for item in part)
        return [Accepted() for _ in part]

    outcomes, _ = asyncio.run(push_bisecting(readings, send, max_calls=max_calls))
    assert calls <= max_calls
    by_key = dict(zip((item.key for item in readings), outcomes, strict=True))
    assert {key for key, outcome in by_key.items() if isinstance(outcome, Accepted)} == set(sent)
    assert len(sent) == len(set(sent))
    assert sent == [item.key for item in readings if item.key in set(sent)]
    rejected = {key for key, outcome in by_key.items() if isinstance(outcome, Rejected)}
    assert rejected <= culprits
    undecided = {key for key, outcome in by_key.items() if isinstance(outcome, Retry)}
    assert not undecided or (calls == max_calls and len(undecided) < size)
    assert undecided or rejected == culprits


@pytest.mark.parametrize(
    ("error", "struck", "rest"),
    [
        (OutcomeUnknown("lost"), Unknown, Retry),
        (RateLimited("wait", retry_after=7), Retry, Retry),
        (AuthRefused("key revoked"), Retry, Retry),
    ],
)
async def test_an_error_half_way_hides_nothing_that_was_accepted(
    error: ConnectorError, struck: type[Outcome], rest: type[Outcome]
) -> None:
    readings = [reading(number) for number in range(8)]
    sizes: list[int] = []

    async def send(part: Sequence[Reading]) -> Sequence[Outcome]:
        sizes.append(len(part))
        if len(sizes) == 1:
            raise BatchRefusal("no", code="400")
        if len(sizes) == 3:
            raise error
        if len(part) == 4 and part[0] is readings[4]:
            raise BatchRefusal("no", code="400")
        return [Accepted() for _ in part]

    outcomes, _ = await push_bisecting(readings, send)
    assert [type(outcome) for outcome in outcomes] == [Accepted] * 4 + [struck] * 4
    if isinstance(error, RateLimited):
        assert outcomes[-1] == Retry(after_seconds=7, message="not sent: wait")
    assert rest is Retry
    assert sizes == [8, 4, 4]


async def test_an_error_before_anything_is_known_leaves_as_it_is() -> None:
    async def send(part: Sequence[Reading]) -> Sequence[Outcome]:
        raise AuthRefused("key revoked")

    with pytest.raises(AuthRefused):
        await push_bisecting([reading(1), reading(2)], send)


async def test_a_blamed_meter_costs_one_search_for_all_its_readings() -> None:
    readings = [reading(number, "bad" if number % 2 else "good") for number in range(64)]
    readings.sort(key=lambda item: (item.meter, item.window_start))
    calls = 0

    async def send(part: Sequence[Reading]) -> Sequence[Outcome]:
        nonlocal calls
        calls += 1
        if any(item.meter == "bad" for item in part):
            raise BatchRefusal("unknown", code="404", blames_meter=True)
        return [Accepted() for _ in part]

    outcomes, blamed = await push_bisecting(readings, send)
    assert blamed == {"bad": Rejected(code="404", message="unknown")}
    assert [isinstance(outcome, Rejected) for outcome in outcomes] == [
        item.meter == "bad" for item in readings
    ]
    assert calls <= 8


def test_bad_meters_are_forgotten_in_time_and_bounded() -> None:
    meters, refusal = BadMeters(ttl_seconds=10, capacity=2), Rejected(code="404", message="unknown")
    meters.add("a", refusal, monotonic=0)
    assert meters.get("a", monotonic=9.9) == refusal
    assert meters.get("a", monotonic=10) is None
    for name in "bcd":
        meters.add(name, refusal, monotonic=20)
    assert [meters.get(name, monotonic=21) for name in "bcd"] == [None, refusal, refusal]


async def test_the_limiter_refuses_what_would_wait_too_long_and_takes_nothing_then() -> None:
    limiter = RateLimiter(calls=2, seconds=60)
    await limiter.acquire(max_wait_seconds=0)
    await limiter.acquire(max_wait_seconds=0)
    for _ in range(3):
        with pytest.raises(RateLimited) as caught:
            await limiter.acquire(max_wait_seconds=1)
        assert 29 < caught.value.retry_after <= 30


async def test_the_limiter_believes_the_systems_headers() -> None:
    limiter = RateLimiter(calls=100, seconds=60)
    limiter.remaining(1, reset_seconds=42)
    await limiter.acquire(max_wait_seconds=0)
    limiter.remaining(0, reset_seconds=42)
    with pytest.raises(RateLimited) as caught:
        await limiter.acquire(max_wait_seconds=5)
    assert 41 < caught.value.retry_after <= 42


async def test_a_short_wait_is_waited() -> None:
    limiter = RateLimiter(calls=100, seconds=1)
    limiter.close_for(0.05)
    before = asyncio.get_running_loop().time()
    await limiter.acquire(max_wait_seconds=1)
    assert asyncio.get_running_loop().time() - before >= 0.05


def test_a_credential_has_one_limiter() -> None:
    first = limiter_for("s", "key", calls=1, seconds=1)
    assert limiter_for("s", "key", calls=1, seconds=1) is first
    assert limiter_for("s", "other", calls=1, seconds=1) is not first


async def test_paging_ends_even_where_the_system_does_not() -> None:
    async def fetch(cursor: str | None) -> ListPage[int]:
        return ListPage(items=[1], cursor="again")

    with pytest.raises(Unavailable, match="same cursor"):
        assert [item async for item in walk(fetch)]

    async def count(cursor: str | None) -> ListPage[int]:
        number = int(cursor or 0)
        return ListPage(items=[number], cursor=str(number + 1))

    with pytest.raises(Unavailable, match="3 pages"):
        assert [item async for item in walk(count, max_pages=3)]


GOOD = (Path(connectors.__file__).parent / "postgres" / "manifest.toml").read_text("utf-8")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('dedup = "upsert"', 'dedup = "maybe"'),
        ("tier = 1", "tier = 4"),
        ("tier = 1", "tier = 1\nprice = 3"),
        ("max_items = 5000", "max_items = 0"),
        ("[capabilities]", "[capa"),
    ],
)
def test_a_faulty_manifest_ends_the_start_and_is_named(old: str, new: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=r"^here\.toml"):
        parse_manifest(GOOD.replace(old, new), source="here.toml")
    assert parse_manifest(GOOD, source="here.toml").capabilities.delivery == "exactly_once"


def test_a_fault_of_settings_is_a_text_of_bounded_length() -> None:
    class Few(Block):
        name: str = ""

    with pytest.raises(BadConfiguration) as caught:
        parse(Few, {"x" * 70_000: 1, **{f"y{number}": 1 for number in range(10_000)}}, what="settings")
    assert len(str(caught.value)) < 20_000 and "settings cannot be used: x" in str(caught.value)
