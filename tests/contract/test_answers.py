"""What one odd answer means, named case by case; `test_hostile.py` has the kinds."""

from __future__ import annotations

import asyncio
import gzip
import time
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from connectors.kit.http import HttpClient
from connectors.registry import SYSTEMS
from gateway.model.connector import ConnectorSettings, ProbeResult
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    ConnectorError,
    OutcomeUnknown,
    PermissionDenied,
    RateLimited,
    Unavailable,
)
from gateway.model.outcome import Accepted, Duplicate, Rejected
from gateway.model.reading import make_batch
from tests.contract.harness import CONNECTION, reading
from tests.fixtures.hostile import LOGIN, PAGE, PLACES, Respond, Wire

URL = "http://127.0.0.1:9"
Wired = Callable[[Respond], Wire]
AT = datetime(2026, 11, 2, 9, tzinfo=UTC)
DATE = "Mon, 02 Nov 2026 10:00:00 GMT"
BATCH = make_batch(CONNECTION, [reading(str(number), AT, float(number)) for number in range(1, 4)])


def answer(
    body: bytes = b"",
    kind: str | None = "application/json",
    status: str = "200 OK",
    headers: Sequence[bytes] = (),
    date: str = DATE,
) -> bytes:
    lines = [
        f"HTTP/1.1 {status}".encode(),
        f"Date: {date}".encode(),
        f"Content-Length: {len(body)}".encode(),
        *headers,
    ]
    if kind is not None:
        lines.append(f"Content-Type: {kind}".encode())
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def built(system: str, credentials: dict[str, str], **settings: Any) -> Any:
    return SYSTEMS[system].build(
        ConnectorSettings(
            connection=CONNECTION,
            hosting="cloud",
            settings={"base_url": URL, **settings},
            credentials=credentials,
            timeout_seconds=5.0,
        )
    )


def receiver(**settings: Any) -> Any:
    return built("http_json", {"api_key": "k"}, **settings)


def maintainx() -> Any:
    return built("maintainx", {"api_key": "k"})


@pytest.mark.parametrize("send", ["array", "each"])
@pytest.mark.parametrize(
    "taken",
    [
        answer(b"OK", "text/plain"),
        answer(b"OK", None),
        answer(b"OK", "text/html"),
        answer(b'{"ok":true}', None),
        answer(b'{"ok":true}', "text/plain"),
        answer(b'{"half":', "application/json"),
        answer(b"<ok/>", "application/xml"),
        answer(status="204 No Content"),
        answer(b"queued", "text/plain", "202 Accepted"),
        answer(b"\xff\xfe", "application/octet-stream"),
    ],
)
async def test_any_2xx_says_that_readings_are_taken(wired: Wired, taken: bytes, send: str) -> None:
    wire = wired(lambda _request: taken)
    assert await receiver(send=send).push(BATCH) == [Accepted()] * 3
    assert wire.requests == (1 if send == "array" else 3)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (answer(PAGE, "text/html"), OutcomeUnknown),
        (answer(b"\xef\xbb\xbf\n<!DOCTYPE HTML><p>maintenance", "text/plain"), OutcomeUnknown),
        (answer(LOGIN, "text/html"), AuthRefused),
    ],
)
async def test_a_web_page_says_nothing_of_readings(
    wired: Wired, said: bytes, error: type[ConnectorError]
) -> None:
    wired(lambda _request: said)
    with pytest.raises(error) as caught:
        await receiver().push(BATCH)
    assert type(caught.value) is error and getattr(caught.value, "doubtful", True)


@pytest.mark.parametrize("settings", [{"answer": "json"}, {"results": {}}])
@pytest.mark.parametrize("said", [answer(b"OK", "text/plain"), answer(b""), answer(b'{"half":')])
async def test_who_asks_for_more_gets_more_or_does_not_know(
    wired: Wired, settings: dict[str, Any], said: bytes
) -> None:
    wired(lambda _request: said)
    with pytest.raises(OutcomeUnknown):
        await receiver(**settings).push(BATCH)


REFUSED = {"success": False, "error": "meter unknown", "code": "M7"}


@pytest.mark.parametrize(
    ("settings", "said", "code", "words"),
    [
        ({}, REFUSED, "M7", "meter unknown"),
        ({}, {"success": False}, "refused", "the receiver gave no reason"),
        ({}, {"success": False, "message": "no such meter"}, "refused", "no such meter"),
        (
            {"path": "result.status", "word": "error", "message": "result.text"},
            {"result": {"status": "error", "text": "x"}},
            "refused",
            "x",
        ),
        ({"path": "errors", "word": 1}, {"errors": 1, "error": "one"}, "refused", "one"),
    ],
)
@pytest.mark.parametrize("send", ["array", "each"])
async def test_a_2xx_that_refuses_is_a_refusal_in_the_receivers_words(
    wired: Wired, settings: dict[str, Any], said: dict[str, Any], code: str, words: str, send: str
) -> None:
    wired(lambda _request: answer(orjson.dumps(said)))
    assert (
        await receiver(refused_when=settings, send=send).push(BATCH)
        == [Rejected(code=code, message=words)] * 3
    )
    assert await receiver(send=send).push(BATCH) == [Accepted()] * 3


async def test_one_reading_that_is_refused_by_a_2xx_is_found(wired: Wired) -> None:
    wired(lambda request: answer(orjson.dumps(REFUSED if b'"meter":"2"' in request else {"success": True})))
    outcomes = await receiver(refused_when={}).push(BATCH)
    assert [type(outcome) for outcome in outcomes] == [Accepted, Rejected, Accepted]


@pytest.mark.parametrize(
    "said", [{"success": True}, {"success": "false"}, {"success": 0}, {"success": None}, {}, [], "false"]
)
async def test_only_the_very_word_means_refused(wired: Wired, said: Any) -> None:
    wired(lambda _request: answer(orjson.dumps(said)))
    assert await receiver(refused_when={}).push(BATCH) == [Accepted()] * 3


@pytest.mark.parametrize("path", [None, "/health"])
@pytest.mark.parametrize(
    "said",
    [answer(b"OK", "text/plain"), answer(b"OK", None), answer(PAGE, "text/html"), answer(b"{}"), answer(b"")],
)
async def test_a_probe_asks_for_an_answer_and_no_more(wired: Wired, said: bytes, path: str | None) -> None:
    wired(
        lambda request: said.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if request.startswith(b"HEAD") else said
    )
    assert isinstance(await receiver(probe_path=path).probe(), ProbeResult)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (answer(LOGIN, "text/html"), AuthRefused),
        (answer(status="302 Found", headers=[b"Location: /login"]), AuthRefused),
        (answer(status="401 Unauthorized"), AuthRefused),
        (answer(status="403 Forbidden"), PermissionDenied),
        (answer(orjson.dumps(REFUSED)), PermissionDenied),
    ],
)
async def test_but_it_has_to_be_let_in(wired: Wired, said: bytes, error: type[ConnectorError]) -> None:
    wired(lambda _request: said)
    with pytest.raises(error):
        await receiver(probe_path="/health", refused_when={}).probe()


@pytest.mark.parametrize("kind", [None, "text/plain", "text/html", "application/octet-stream"])
async def test_json_is_json_whatever_it_is_called(wired: Wired, kind: str | None) -> None:
    wired(lambda _request: answer(b'{"meters": []}', kind))
    await maintainx().probe()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_a_redirect_is_one_wherever_it_leads(wired: Wired, place: str, status: str) -> None:
    wired(lambda _request: answer(status=status, headers=[b"Location: " + place.encode("latin-1")]))
    with pytest.raises(ConnectorError, match="a redirect, which is not followed"):
        await maintainx().probe()


@pytest.mark.parametrize(
    "place",
    [
        "/login", "/maximo/webclient/LoginServlet", "/users/sign_in?next=%2Fapi", "/SignOn", "https://sso.example.com/",
        "https://login.microsoftonline.com/common/oauth2/v2.0/authorize", "/saml2/idp/sso", "https://auth.example.com/x",
        "/sap/bc/ui2/logon", "https://example.com/adfs/ls?wa=wsignin1.0",
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary"])
async def test_a_redirect_to_a_login_may_mean_the_credential(wired: Wired, place: str, status: str) -> None:
    wired(lambda _request: answer(status=status, headers=[b"Location: " + place.encode()]))
    with pytest.raises(AuthRefused, match="it leads to") as caught:
        await maintainx().probe()
    assert caught.value.doubtful


@pytest.mark.parametrize(
    ("status", "place", "error"),
    [
        ("302 Found", "/maintenance", Unavailable),
        ("302 Found", "https://status.example.com/outage?from=api", Unavailable),
        ("307 Temporary", "/loginfo/lessons", Unavailable),
        ("303 See Other", "/author/7", Unavailable),
        ("301 Moved", "https://new.example.com/api", BadConfiguration),
        ("308 Permanent", "/v1/meters/", BadConfiguration),
        ("302 Found", "", Unavailable),
        ("304 Not Modified", "", Unavailable),
    ],
)
async def test_no_other_redirect_says_anything_of_the_credential(
    wired: Wired, status: str, place: str, error: type[ConnectorError]
) -> None:
    """A maintenance of an hour asked the customer for new credentials."""
    headers = [b"Location: " + place.encode()] if place else []
    wired(lambda _request: answer(status=status, headers=headers))
    with pytest.raises(error) as caught:
        await maintainx().probe()
    assert "from=api" not in str(caught.value)


async def test_a_cookie_that_cannot_be_sent_is_dropped_and_the_others_are_kept(wired: Wired) -> None:
    seen: list[bytes] = []

    def respond(request: bytes) -> bytes:
        seen.append(request)
        cookies = [
            b"Set-Cookie: odd=\xe9\xff; Path=/",
            b"Set-Cookie: good=1",
            b"Set-Cookie: long=" + b"x" * 5000,
        ]
        return answer(b'{"meters": []}', headers=cookies)

    wired(respond)
    connector = maintainx()
    for _ in range(3):
        await connector.probe()
    assert [b"good=1" in request for request in seen] == [False, True, True]
    assert all(b"odd" not in request and b"long" not in request for request in seen)


async def test_cookies_do_not_grow_without_end(wired: Wired) -> None:
    sizes: list[int] = []

    def respond(request: bytes) -> bytes:
        sizes.append(len(request))
        number = len(sizes)
        return answer(
            b'{"meters": []}',
            headers=[b"Set-Cookie: c%d%d=%s" % (number, part, b"x" * 100) for part in range(10)],
        )

    wired(respond)
    connector = maintainx()
    for _ in range(40):
        await connector.probe()
    assert max(sizes) < 10_000


@pytest.mark.parametrize(
    "date",
    [
        "Fri, 31 Dec 9999 23:59:59 -1200",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Mon, 01 Jan 0001 00:00:00 +1400",
        "soon",
        "",
    ],
)
async def test_a_date_that_no_clock_shows_changes_nothing_else(wired: Wired, date: str) -> None:
    def respond(request: bytes) -> bytes:
        body = b'[{"id":1},{"id":1},{"id":1}]' if request.startswith(b"POST") else b'{"meters": []}'
        return answer(body, date=date)

    wired(respond)
    connector = maintainx()
    assert (await connector.probe()).account is None
    assert await connector.push(BATCH) == [Accepted()] * 3


@pytest.mark.parametrize(
    ("wait", "seconds"),
    [("0", 0.0), ("7", 7.0), ("999999999999", 999_999_999_999.0), ("Fri, 31 Dec 9999 23:59:59 GMT", 251_608_687_199.0), ("-5", 60.0),
     ("1.5", 60.0), ("soon", 60.0), ("50, 53", 60.0), ("Sun, 01 Nov 2026 10:00:00 GMT", 0.0), ("9" * 400, 1e15)],
)  # fmt: skip
async def test_what_is_asked_for_is_given_as_it_is(wired: Wired, wait: str, seconds: float) -> None:
    wired(lambda _request: answer(status="429 Slow", headers=[f"Retry-After: {wait}".encode()]))
    with pytest.raises(RateLimited) as caught:
        await receiver(probe_path="/h").probe()
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Rate-Limit-Remaining": "\xb2", "X-Rate-Limit-Reset": "1"},
        {"X-Rate-Limit-Remaining": "9" * 5000, "X-Rate-Limit-Reset": "9" * 5000},
    ],
)
async def test_limits_that_are_no_numbers_are_none(wired: Wired, headers: dict[str, str]) -> None:
    lines = [f"{name}: {value}".encode("latin-1") for name, value in headers.items()]
    wired(lambda _request: answer(b'{"meters": []}', headers=lines))
    connector = built("maintainx", {"api_key": f"of {len(headers['X-Rate-Limit-Reset'])}"})
    await connector.probe()
    await connector.probe()


@pytest.mark.parametrize(
    "listed", [b"[]", b'[{"id":1}]', b'[{"id":1},{"id":2},{"id":3},{"id":4}]', b"{}", b"0", b""]
)
async def test_a_201_of_maintainx_that_lists_other_than_was_sent_is_no_known_outcome(
    wired: Wired, listed: bytes
) -> None:
    wired(
        lambda request: (
            answer(listed, status="201 Created") if request.startswith(b"POST") else answer(b'{"meters": []}')
        )
    )
    with pytest.raises(OutcomeUnknown, match="does not list"):
        await maintainx().push(BATCH)


@pytest.mark.parametrize("system", ["sap_s4hana", "sap_ecc"])
async def test_a_duplicate_whose_document_sap_does_not_show_is_delivered(wired: Wired, system: str) -> None:
    """SAP says that it holds one of this second; that the user may not see it, or it was archived, changes
    nothing.
    """

    def respond(request: bytes) -> bytes:
        if b"$batch" not in request.split(b"\r\n", 1)[0]:
            return answer(
                b"" if request.startswith(b"HEAD") else b'{"value": []}', headers=[b"X-Csrf-Token: t"]
            )
        fault = {"error": {"code": "IR/TIMESTAMP_DUPREC", "message": "there is one"}}
        asks = b"POST MeasurementDocument" not in request
        status, document = ("200 OK", {"value": []}) if asks else ("400 Bad Request", fault)
        part = b"--a\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 %s\r\n\r\n%s\r\n" % (
            status.encode(),
            orjson.dumps(document),
        )
        return answer(
            part * 3 + b"--a--\r\n" if request.count(b"Content-ID") == 3 else part + b"--a--\r\n",
            "multipart/mixed; boundary=a",
        )

    wired(respond)
    more = {"client": "100", "service": "/z"} if system == "sap_ecc" else {}
    connector = built(system, {"username": "u", "password": "p"}, **more)
    assert await connector.push(make_batch(CONNECTION, BATCH.readings[:1])) == [Duplicate()]


async def test_a_gzip_bomb_never_unfolds(wired: Wired) -> None:
    bomb = gzip.compress(b" " * (64 << 20), 9)
    wired(lambda _request: answer(bomb, headers=[b"Content-Encoding: gzip"]))
    client = HttpClient(URL, headers={}, secrets=[], timeout_seconds=30.0, max_body_bytes=1 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(Unavailable, match="larger than"):
            await client.call("probe", "GET", "/")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        await client.close()
    assert peak < 8 << 20, f"{peak >> 20} MB"


async def test_a_client_that_was_closed_is_unavailable(wired: Wired) -> None:
    wired(lambda _request: answer(b'{"meters": []}'))
    connector = maintainx()
    await connector.close()
    with pytest.raises(Unavailable, match="being closed"):
        await connector.probe()


ENDLESS = {
    "small pieces": (b"", b"1\r\n \r\n" * 5000, "pieces of a few bytes"),
    "gzip and more": (
        b"%x\r\n%s\r\n" % (len(gzip.compress(b"{}")), gzip.compress(b"{}")),
        b"10000\r\n" + b"x" * 65536 + b"\r\n",
        "goes on behind its gzip data",
    ),
    "gzip of nothing": (
        b"",
        b"%x\r\n%s\r\n" % (len(EMPTY := gzip.compress(b"")[:10]), EMPTY),
        "not valid gzip",
    ),
    "blocks of nothing": (
        b"a\r\n" + gzip.compress(b"")[:10] + b"\r\n",
        b"%x\r\n%s\r\n" % (50_000, b"\0\0\0\xff\xff" * 10_000),
        "larger than",
    ),
}


@pytest.mark.parametrize("case", ENDLESS)
async def test_an_answer_without_end_is_left_soon_and_holds_nobody(case: str) -> None:
    first, again, why = ENDLESS[case]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            packed = b"Content-Encoding: gzip\r\n" if case != "small pieces" else b""
            writer.write(b"HTTP/1.1 200 OK\r\n" + packed + b"Transfer-Encoding: chunked\r\n\r\n" + first)
            while not writer.is_closing():
                writer.write(again)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = HttpClient(f"http://127.0.0.1:{port}", headers={}, secrets=(), timeout_seconds=20)
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.process_time()
            await asyncio.sleep(0)
            longest = max(longest, time.process_time() - before)

    watching = asyncio.create_task(watch())
    try:
        with pytest.raises(Unavailable, match=why):
            await client.call("x", "GET", "/")
    finally:
        watching.cancel()
        await client.close()
        server.close()
    assert longest < 1.0
