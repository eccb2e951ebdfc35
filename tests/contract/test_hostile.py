"""Whatever a system answers and whatever a person gives, a connector returns or raises a ConnectorError, and
nothing else: anything else would be the end of what called it.

Answers go through the real HTTP client, but for the socket; the seed of a failure is in its message.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from connectors.kit import oauth
from connectors.registry import SYSTEMS
from gateway.model.connector import Connector, ConnectorSettings, ProbeResult
from gateway.model.credential import Credential
from gateway.model.errors import BadConfiguration, ConnectorError
from gateway.model.exchange import EventToRaise, RemoteMeter
from gateway.model.outcome import Accepted, Duplicate, Rejected, Retry, Unknown
from gateway.model.reading import Batch, Reading, make_batch, reading_key
from tests.contract.hostile_reading import is_kept, list_answer, lists, offers, order_answer, read
from tests.fixtures import hostile
from tests.fixtures.hostile import SECRET, TEXTS, Wire

pytestmark = pytest.mark.filterwarnings("ignore:http.cookiejar bug")  # the library's, which it survives
AT = datetime(2026, 11, 2, 9, 30, tzinfo=UTC)
URL = "http://127.0.0.1:9"
VALUES = (
    1.0,
    -0.0,
    2**53 + 1,
    10**400,
    -(2**70),
    math.nan,
    math.inf,
    True,
    "text",
    "\ud800",
    "a\0b",
    1e308,
    2**60,
    0.1,
)
METERS = (
    "7",
    "pump",
    "control/point",
    "",
    "\ud800",
    "x" * 200,
    "９９",
    "9" * 400,
    "a\nb",
    "'",
    "999999999999999",
)
OUTCOMES = (Accepted, Duplicate, Rejected, Retry, Unknown)


@dataclass(slots=True)
class Target:
    """How one system is built, and what it answers when all is well."""

    system: str
    settings: Mapping[str, Any]
    credentials: Mapping[str, str]
    well: Callable[[bytes], Any]
    asked: Counter[str] = field(default_factory=Counter)


def _maintainx(request: bytes) -> Any:
    if (found := order_answer(request)) is not None:
        return found
    if request.startswith(b"POST"):
        return [{"id": 1}] * request.count(b'"meterId"')
    meter = {
        "id": 7,
        "name": "pump",
        "unit": "C",
        "lastReading": {"value": 1.0, "readingDate": "2026-11-02T09:30:00.000Z"},
    }
    return {"meters": [meter], "nextCursor": None}


def _tryton(request: bytes) -> Any:
    line = request.split(b"\r\n", 1)[0]
    if b"search_read" in line and b'"id",">"' in request and b'"id",">",0' not in request:
        return []
    if b"/create" in line:
        return list(range(1, 1 + request.count(b'"control"')))
    if b"quality.control" in line:
        points = [{"name": "point", "string": "Point", "type_": kind} for kind in ("numeric", "float")]
        return [{"id": 3, "name": "control", "company": 1, "points.": points, "points": points}]
    if line.startswith(b"POST") and b"search_read" not in line:
        return {"id": 5, "alerts.": [{"number": "A1"}]}
    stamp = {"__class__": "datetime", "year": 2026, "month": 11, "day": 2}
    key = reading_key("c", "control", AT)
    points = {"point": {"__class__": "Decimal", "decimal": "1.0"}}
    return [
        {
            "id": 9,
            "reference": key,
            "points": points,
            "state": "pending",
            "processed_at": stamp,
            "last_modified_at": stamp,
            "origin": "quality.inspection,9",
            "origin.": {"id": 9, "rec_name": "i"},
            "company.": {"rec_name": "c"},
            "description": "d",
            "alerts.": [{"id": 4}],
        },
        {"id": 10, "last_modified_at": stamp},
    ]


def _http_json(request: bytes) -> Any:
    if request.startswith(b"GET /l/"):
        return list_answer(request)
    if request.startswith(b"GET"):
        return {"readings": [{"key": reading_key("c", "7", AT), "value": 1.0}]}
    return {"success": True, "results": [{"status": "accepted", "id": "x"}] * request.count(b'"key"')}


def _row(request: bytes) -> dict[str, Any]:
    return {
        "MeasurementDocument": "1", "MeasuringPoint": "7", "MsmtRdngDate": "2026-11-02", "MsmtRdngTime": "09:30:00",
        "MeasurementReadingInEntryUoM": 1.0, "MeasuringPointPositionNumber": "pump", "MaintenanceNotification": "10",
        "LastChangeDateTime": "2026-11-02T09:30:00Z", "id": "1", "number": "7", "externalId": reading_key("c", "7", AT),
        "readingDateTime": "2026-11-02T09:30:00Z", "value": 1.0, "lastModifiedDateTime": "2026-11-02T09:30:00Z",
        "LastChangeDate": "/Date(1793577600000)/", "LastChangeTime": "PT09H30M00S", "NotifProcessingPhase": "1",
        "MaintNotifExtReferenceNumber": "r",
    }  # fmt: skip


def _link(request: bytes) -> str | None:
    """To a second page of the same set."""
    if b"skiptoken" in request or not request.startswith(b"GET /"):
        return None
    path = request.split(b" ", 2)[1].partition(b"?")[0].decode("latin-1")
    return f"{URL}{path}?$skiptoken=2"


def _is_behind(request: bytes) -> bool:
    """Whether it asks for what follows a record: there is none."""
    return b"%20gt%20%27" in request.split(b"\r\n", 1)[0]


def _odata4(request: bytes) -> Any:
    if request.startswith(b"POST"):
        return _row(request)
    if b"API_MAINTNOTIFICATION" in request:
        return _odata2(request)
    if _is_behind(request):
        return {"value": []}
    return {"value": [_row(request), _row(request)], "@odata.nextLink": _link(request), "@odata.count": 4}


def _odata2(request: bytes) -> Any:
    if request.startswith(b"POST"):
        return {"d": _row(request)}
    if _is_behind(request):
        return {"d": {"results": []}}
    return {"d": {"results": [_row(request), _row(request)], "__next": _link(request), "__count": "4"}}


TARGETS = (
    Target("maintainx", {"base_url": URL}, {"api_key": SECRET}, _maintainx),
    Target("tryton", {"base_url": URL, "database": "d", "create_points": True}, {"api_key": SECRET}, _tryton),
    Target(
        "http_json",
        {"base_url": URL, "probe_path": "/health", "results": {}, "refused_when": {}, "read_back": {"path": "/r"}},
        {"api_key": SECRET, "secret": SECRET},
        _http_json,
    ),
    Target("http_json", {"base_url": URL, "path": "/health", "streams": lists()}, {"api_key": SECRET}, _http_json),
    Target("http_json", {"base_url": URL, "send": "each", "read_back": {"path": "/r"}}, {"username": "u", "password": SECRET}, _http_json),
    Target(
        "odata",
        {"base_url": URL, "service": "/s", "entity_set": "readings", "meters": {}, "streams": {
            "things": {"entity_set": "things", "count": True}, "all": {"entity_set": "things", "modified": None, "key": ["id", "number"]},
            "some": {"entity_set": "things", "select": ["value"], "progress": {"path": "remark", "open": ["1"]}, "deleted": {"path": "gone"}, "reference": "number"},
        }},
        {"api_key": SECRET},
        _odata4,
    ),
    Target(
        "odata",
        {"base_url": URL, "service": "/s", "entity_set": "readings", "batch": "json", "unique_key": True},
        {"username": "u", "password": SECRET},
        _odata4,
    ),
    Target(
        "sap_s4hana",
        {"base_url": URL, "meters_by": "position", "new_measuring_point": {"category": "M", "technical_object_type": "X", "equipment": "1"}},
        {"username": "u", "password": SECRET},
        _odata4,
    ),
    Target("sap_ecc", {"base_url": URL, "client": "100", "service": "/z", "points": {}, "notifications": {}}, {"username": "u", "password": SECRET}, _odata2),
)  # fmt: skip


class Answering:
    """A system that is odd at a rate which changes from call to call."""

    def __init__(self, target: Target, rng: random.Random) -> None:
        self._target, self._rng = target, rng
        self.rate = 0.0

    def __call__(self, request: bytes) -> bytes:
        rng, rate = self._rng, self.rate
        if b"$batch" in request.split(b"\r\n", 1)[0] and self._target.settings.get("batch") != "json":
            one = self._target.well(b"GET")
            parts = [("HTTP/1.1 200 OK", one)] * hostile.operations_in(request)
            body, kind = hostile.multipart(rng, request, parts, rate)
        elif b"$batch" in request.split(b"\r\n", 1)[0]:
            count = hostile.operations_in(request)
            responses = [
                {"id": str(number), "status": 201, "body": self._target.well(b"GET")}
                for number in range(1, count + 1)
            ]
            body, kind = hostile.body_of(rng, {"responses": responses}, rate), "application/json"
        else:
            body, kind = hostile.body_of(rng, self._target.well(request), rate), "application/json"
        if request.startswith(b"HEAD"):
            body = b""
        return hostile.answer_of(
            rng, body, kind=kind, status="HTTP/1.1 200 OK", rate=rate, extra=["X-Csrf-Token: tok"]
        )


def _readings(rng: random.Random) -> list[Reading]:
    made = []
    for number in range(rng.randrange(1, 5)):
        meter, at = rng.choice(METERS[:3] if rng.random() < 0.7 else METERS), AT + timedelta(seconds=number)
        with suppress(UnicodeEncodeError):  # a key is made of UTF-8
            made.append(
                Reading(
                    key=reading_key("c", meter, at),
                    meter=meter,
                    window_start=at,
                    value=rng.choice(VALUES),
                    unit=rng.choice([None, "C", "é"]),
                )
            )
    return made


async def _some(items: AsyncIterator[RemoteMeter]) -> None:
    number = 0
    async for _ in items:
        if (number := number + 1) > 20:
            return


async def _operate(connector: Any, target: Target, rng: random.Random) -> None:
    """One call, its result looked at."""
    names = ["probe", "push", "push", "find", *offers(connector)]
    names += [name for name in ("meters", "ensure_meter") if hasattr(connector, name)]
    name = rng.choice(names)
    target.asked[name] += name != "read"
    readings = _readings(rng)
    match name:
        case "probe":
            assert isinstance(await connector.probe(), ProbeResult)
        case "push":
            batch = (
                make_batch("c", readings)
                if all(isinstance(r.value, int | float) for r in readings)
                else Batch(id="b", connection="c", readings=tuple(readings))
            )
            outcomes = await connector.push(batch)
            assert len(outcomes) == len(readings)
            assert all(isinstance(outcome, OUTCOMES) for outcome in outcomes)
            for outcome in outcomes:
                assert not isinstance(outcome, Retry) or 0 <= outcome.after_seconds < math.inf
                assert SECRET not in getattr(outcome, "message", "")
        case "find":
            assert set(await connector.find(readings)) <= {reading.key for reading in readings}
        case "meters":
            await _some(connector.meters())
        case "ensure_meter":
            made = await connector.ensure_meter(
                RemoteMeter(meter=rng.choice(METERS[1:3]), title=rng.choice(TEXTS[:6]))
            )
            assert isinstance(made, RemoteMeter | Rejected)
            assert isinstance(made, Rejected) or isinstance(made.title, str)
        case "raise_event":
            event = EventToRaise(
                reference=rng.choice(["r", "", "x" * 30, "\ud800"]),
                meter=rng.choice(METERS),
                severity="high",
                title="t",
                text=rng.choice(TEXTS[:8]),
                at=AT,
            )
            outcome = await connector.raise_event(event)
            assert isinstance(outcome, OUTCOMES) and is_kept(getattr(outcome, "remote_id", None))
        case _:
            await read(connector, rng, target.asked)


def _fair(error: ConnectorError, *, knows_secret: bool = True) -> None:
    text = str(error)
    assert len(text) < 20_000 and not (knows_secret and SECRET in text)
    wait = getattr(error, "retry_after", None)
    assert wait is None or 0 <= wait < math.inf


@contextmanager
def _named(what: str, *, knows_secret: bool = True) -> Iterator[None]:
    try:
        yield
    except ConnectorError as error:
        _fair(error, knows_secret=knows_secret)
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {str(error)[:300]}") from error


async def _answers(target: Target, put: Callable[[hostile.Respond], Wire], calls: int, seed: int) -> None:
    made = 0
    while made < calls:
        rng = random.Random(f"{target.system} {seed} {made}")
        answering = Answering(target, rng)
        put(answering)
        connector = _build(target.system, target.settings, target.credentials)
        for _ in range(40):
            answering.rate = rng.choice([0.02, 0.05, 0.1, 0.3])
            with _named(f"{target.system}, seed {seed}, block {made}"):
                await _operate(connector, target, rng)
        await connector.close()
        made += 40


def _build(system: str, settings: Mapping[str, Any], credentials: Mapping[str, Any]) -> Connector:
    return SYSTEMS[system].build(
        ConnectorSettings(
            connection="c", hosting="cloud", settings=settings, credentials=credentials, timeout_seconds=5.0
        )
    )


async def _gifts(put: Callable[[hostile.Respond], Wire], calls: int, seed: int) -> None:
    """Credentials and settings of every system. What is refused is refused without its value; what is taken
    can be sent.
    """
    rng = random.Random(f"gifts {seed}")
    put(lambda _request: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}")
    for number in range(calls):
        target = rng.choice(TARGETS)
        credentials, settings = dict(target.credentials), dict(target.settings)
        chosen = rng.choice(sorted(SYSTEMS[target.system].credentials_model.model_fields))
        text = _text(rng)
        if rng.random() < 0.7:
            credentials[chosen] = text
        else:
            name = rng.choice(sorted(SYSTEMS[target.system].settings_model.model_fields))
            settings[name] = _public(
                rng.choice(
                    [text, hostile.hostile_json(rng), "http://" + text, "https://h" + text, {text: text}]
                )
            )
        with _named(f"{target.system}, seed {seed}, {chosen}, gift {number}"):
            try:
                SYSTEMS[target.system].credentials_model.model_validate(credentials)
            except ValidationError as error:
                shown = str(error.errors(include_input=False, include_context=False))
                _is_hidden(text, shown)
                with pytest.raises(BadConfiguration):
                    _build(target.system, settings, credentials)
                continue
            connector = _build(target.system, settings, credentials)
            with suppress(ConnectorError):
                await connector.probe()
            await connector.close()


def _public(value: object) -> object:
    """A setting is no secret, and errors name it."""
    match value:
        case str():
            return value.replace(SECRET, "")
        case dict():
            return {_public(key): _public(item) for key, item in value.items()}
        case list():
            return [_public(item) for item in value]
    return value


def _is_hidden(text: str, shown: str) -> None:
    assert len(text) < 8 or text.isspace() or text not in shown


def _text(rng: random.Random) -> str:
    text = rng.choice(TEXTS)
    return (
        text
        if rng.random() < 0.5
        else "".join(rng.choice((*TEXTS[:20], "key", SECRET))[:40] for _ in range(3))
    )


async def _tokens(put: Callable[[hostile.Respond], Wire], calls: int, seed: int) -> None:
    """The authorization server's answers, and what a client is said to be."""
    rng = random.Random(f"tokens {seed}")
    rate = 0.0

    def respond(_request: bytes) -> bytes:
        grant = {
            "access_token": "t" * 20,
            "refresh_token": "r" * 20,
            "expires_in": 3600,
            "token_type": "Bearer",
            "error": None,
        }
        body = hostile.body_of(rng, grant, rate)
        return hostile.answer_of(rng, body, kind="application/json", status="HTTP/1.1 200 OK", rate=rate)

    put(respond)
    exchange = oauth.OAuthExchange()
    for number in range(calls):
        rate = rng.choice([0.02, 0.1, 0.3])
        values = {
            "token_url": "https://h.example/token",
            "client_id": "c",
            "client_secret": SECRET,
            "authorization_url": "https://h.example/a",
            "revocation_url": "https://h.example/r",
        }
        if rng.random() < 0.4:
            values[rng.choice([*values, "scope", "client_authentication"])] = rng.choice(
                [_text(rng), "https://" + _text(rng)]
            )
        credential = Credential(generation=1, type="oauth2_authorization_code", values=values)
        call: Awaitable[object]
        knows_secret = values["client_secret"] == SECRET
        with _named(f"oauth, seed {seed}, call {number}", knows_secret=knows_secret):
            match rng.randrange(4):
                case 0:
                    oauth.authorization_url(
                        values, redirect_uri="https://g.example/cb", state="s", verifier="v" * 43
                    )
                    continue
                case 1:
                    call = exchange.refresh(credential, rng.choice([None, _text(rng)]), timeout_seconds=5)
                case 2:
                    call = exchange.redeem(
                        credential, code=_text(rng), verifier="v", redirect_uri="u", timeout_seconds=5
                    )
                case _:
                    call = exchange.revoke(credential, _text(rng), timeout_seconds=5)
            await call


@pytest.mark.parametrize(
    "target", TARGETS, ids=lambda target: f"{target.system}-{'-'.join(target.credentials)}"
)
async def test_odd_answers_raise_nothing_but_our_errors(
    hasty: None, target: Target, wired: Callable[[hostile.Respond], Wire]
) -> None:
    await _answers(target, wired, 400, 1)


async def test_odd_credentials_and_settings_are_refused_or_can_be_sent(
    wired: Callable[[hostile.Respond], Wire],
) -> None:
    await _gifts(wired, 600, 1)


async def test_odd_authorization_servers_raise_nothing_but_our_errors(
    wired: Callable[[hostile.Respond], Wire],
) -> None:
    await _tokens(wired, 400, 1)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2, 12))
async def test_ten_thousand_odd_calls(
    hasty: None, wired: Callable[[hostile.Respond], Wire], seed: int
) -> None:
    """Ten seeds are more than 100,000 calls; side by side (`-n 4`), for nearly all of it is waiting."""
    started, before = time.monotonic(), sum((target.asked for target in TARGETS), Counter[str]())
    for target in TARGETS:
        await _answers(target, wired, 1_000, seed)
    await _gifts(wired, 2_000, seed)
    await _tokens(wired, 1_000, seed)
    calls = 1_000 * len(TARGETS) + 3_000
    assert calls > 10_000
    asked = sum((target.asked for target in TARGETS), Counter[str]()) - before
    print(f"seed {seed}: {calls} calls in {time.monotonic() - started:.0f} s, {dict(asked)}", flush=True)
