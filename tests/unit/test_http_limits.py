"""What HTTP takes of one client and of all: sockets, time, failed attempts, names; and who may read the
metrics.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from benchmarks.servers import patient
from gateway import metrics
from gateway.http import entrance as rules
from gateway.http import protocol
from gateway.http.middleware import MAX_BODY_BYTES, BodyLimit
from gateway.model.attempts import Attempts
from gateway.processes.readiness import Readiness
from gateway.settings import HttpSettings
from tests.fixtures.http_fakes import TOKENS, Well, World, mounted_for, serving, world

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
Socket = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Large(Well):
    """Metrics of many megabytes."""

    async def exposition(self, accept: str) -> tuple[str, str]:
        return "x" * (32 << 20), "text/plain"


@asynccontextmanager
async def sockets(client: httpx.AsyncClient, count: int) -> AsyncIterator[Sequence[Socket]]:
    opened = [
        await asyncio.open_connection(client.base_url.host, client.base_url.port, limit=1 << 16)
        for _ in range(count)
    ]
    try:
        yield opened
    finally:
        for _, writer in opened:
            writer.close()


async def is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        async with patient(5):
            return await reader.read() == b""
    except ConnectionError:
        return True


async def test_idle_sockets_beyond_the_limit_give_way() -> None:
    async with (
        serving(Readiness(), HttpSettings(max_connections=20)) as client,
        sockets(client, 70) as opened,
    ):
        for path in ("/healthz", "/metrics", "/status"):
            answer = await client.get(path, headers={"Connection": "close"})
            assert answer.status_code in (200, 503) and answer.content, path
        assert await is_closed(opened[0][0]), "the one that was idle for longest"
        reader, writer = opened[-1]
        writer.write(GET)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200"), "the newest is still served"


async def test_one_address_takes_no_more_than_its_share() -> None:
    settings = HttpSettings(max_connections=20, max_connections_per_address=5)
    async with serving(Readiness(), settings) as client, sockets(client, 10) as opened:
        assert [await is_closed(reader) for reader, _ in opened[:5]] == [True] * 5


class Slow(Well):
    """An answer that takes its time."""

    async def checks(self) -> dict[str, bool]:
        await asyncio.Event().wait()
        return {}


async def test_where_all_are_busy_the_new_one_is_told_to_wait() -> None:
    ask = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    settings = HttpSettings(max_connections=10, max_connections_per_address=10)
    async with serving(Slow(), settings) as client, sockets(client, 10) as opened:
        for _, writer in opened:
            writer.write(ask)
        reader = opened[0][0]  # the busy ones are in the order of the loop: one more turn and all have begun
        async with patient(5):
            while True:
                late, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
                line = await asyncio.wait_for(late.readline(), 0.2) if not late.at_eof() else b""
                writer.close()
                if line.startswith(b"HTTP/1.1 503"):
                    break
        assert not reader.at_eof()


@pytest.mark.parametrize("path", ["/login", "/v1/connections", "/connect/link/aaaa", "/healthz", "/nowhere"])
async def test_a_body_that_does_not_come_gives_way(path: str) -> None:
    """A few addresses would keep everybody out with bodies that are on their way."""
    post = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\na".encode()
    settings = HttpSettings(max_connections=10, max_connections_per_address=10)
    async with serving(Readiness(), settings) as client, sockets(client, 10) as opened:
        for _, writer in opened:
            writer.write(post)
        for _ in range(3):  # whose turns came first: by then all of them have begun
            await asyncio.sleep(0.05)
            assert (await client.get("/healthz", headers={"Connection": "close"})).status_code == 200
        assert await is_closed(opened[0][0]), "the one that has been on its way for longest"


@given(sent=st.lists(st.binary(max_size=50), max_size=5), is_whole=st.booleans())
async def test_what_was_cut_off_on_its_way_is_not_acted_upon(sent: list[bytes], is_whole: bool) -> None:
    messages: list[Message] = [{"type": "http.request", "body": part, "more_body": True} for part in sent]
    messages.append({"type": "http.request", "body": b"end"} if is_whole else {"type": "http.disconnect"})
    acted: list[bytes] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        acted.append((await receive())["body"])

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        raise AssertionError(f"nobody is there to be told {message}")

    await BodyLimit(application)({"type": "http", "headers": []}, receive, send)
    assert acted == ([b"".join(sent) + b"end"] if is_whole else [])


@pytest.mark.parametrize("host", ["elsewhere.example", "[", "a b"])
async def test_what_is_refused_before_the_application_is_a_page_for_browsers(host: str) -> None:
    asked = {"Host": host, "Accept": "text/html"}
    async with serving(Readiness()) as client:
        page = await client.get("/", headers=asked)
        document = await client.get("/v1/systems", headers=asked)
        large = await client.post(
            "/login", headers={"Accept": "text/html"}, content=b"x" * (MAX_BODY_BYTES + 1)
        )
    assert (page.status_code, document.status_code, large.status_code) == (421, 421, 413)
    assert "<h1>This gateway does not answer to that host name</h1>" in page.text
    assert document.json()["code"] == "request.misdirected"
    assert "<h1>The body is too large</h1>" in large.text
    assert all(answer.headers["connection"] == "close" for answer in (page, document, large))


@pytest.mark.parametrize("trickle", [b"", b"G", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: "])
async def test_a_head_that_does_not_come_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, trickle: bytes
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    async with serving(Readiness()) as client, sockets(client, 2) as [(fresh, first), (used, second)]:
        second.write(GET)
        assert (await used.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        first.write(trickle)
        second.write(trickle)
        for _ in range(6):  # a byte now and then keeps nothing
            await asyncio.sleep(0.1)
            if trickle:
                first.write(b"a")
                second.write(b"a")
        assert await is_closed(fresh)
        assert not trickle or await is_closed(used), "the second head is timed like the first"


async def test_a_head_of_any_length_is_not_held() -> None:
    sent = 0
    async with serving(Readiness()) as client, sockets(client, 1) as [(_, writer)]:
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        with pytest.raises(ConnectionError):
            while sent < 64 << 20:
                writer.write(b"X-A: " + b"a" * 8_000 + b"\r\n")
                await writer.drain()
                sent += 8_000


async def test_a_client_that_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "READ_SECONDS", 0.3)
    async with serving(Large()) as client, sockets(client, 1) as [(reader, writer)]:
        given_up = metrics.HTTP_REFUSED.labels("slow")._value.get
        before = given_up()
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with patient(20):
            while given_up() == before:
                await asyncio.sleep(0.02)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(32 << 20)


def test_an_ipv6_network_is_one_client() -> None:
    class Transport:
        def get_extra_info(self, name: str) -> tuple[str, int]:
            return (self.peer, 1)

        peer = ""

    def origin(peer: str) -> str:
        transport = Transport()
        transport.peer = peer
        return protocol._origin(transport)  # type: ignore[arg-type]

    assert origin("2001:db8::1") == origin("2001:db8::ffff:2") != origin("2001:db8:0:1::1")
    assert origin("::ffff:192.0.2.1") != origin("::ffff:192.0.2.2")
    assert origin("fe80::1%eth0") == origin("fe80::2%eth0")


# Failed attempts


async def tried(client: httpx.AsyncClient, token: str, **headers: str) -> httpx.Response:
    return await client.get("/v1/credits", headers={"Authorization": f"Bearer {token}", **headers})


async def test_an_address_that_guesses_tokens_waits_and_known_tokens_pass() -> None:
    made = world()
    async with made.client() as client:
        assert (await tried(client, "viewer")).status_code == 200
        guesses = [await tried(client, f"guess-{number}") for number in range(rules.MAX_FAILURES + 5)]
        assert [answer.status_code for answer in guesses] == [401] * rules.MAX_FAILURES + [429] * 5
        assert guesses[-1].json()["code"] == "auth.too_many_attempts"
        assert 0 < int(guesses[-1].headers["retry-after"]) <= rules.WINDOW_SECONDS
        assert (await tried(client, "viewer")).status_code == 200, "good before: it is not locked out"
        assert (await tried(client, "operator")).status_code == 429, (
            "never seen: it cannot be told from a guess"
        )
        status = await client.get(
            "/v1/connections/acme-2/status", headers={"Authorization": "Bearer guess-1"}
        )
        assert status.status_code == 429, "the fast path looks nothing up for a guess"


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("POST", "/login", "token"),
        ("POST", "/login", "link"),
        ("GET", "/reauthorize/{}", None),
        ("POST", "/reauthorize/{}", "api_key"),
        ("GET", "/v1/credits", "bearer"),
    ],
)
async def test_every_secret_that_can_be_guessed_is_counted(method: str, path: str, field: str | None) -> None:
    async with world().client() as client:
        codes = []
        for number in range(rules.MAX_FAILURES + 1):
            secret = f"guess{number}"
            headers = {"Authorization": f"Bearer {secret}"} if field == "bearer" else {}
            data = {field: secret} if method == "POST" and field else None
            answer = await client.request(method, path.format(secret), data=data, headers=headers)
            codes.append(answer.status_code)
    assert codes[-1] == 429 and 429 not in codes[:-1]


async def test_a_proxy_that_is_trusted_says_who_the_client_is() -> None:
    made = world()
    made.mounted.entrance = mounted_for(
        HttpSettings.model_validate(
            {"public_url": "http://gateway.test", "trusted_proxies": ["127.0.0.0/8", "10.0.0.1"]}
        )
    ).entrance
    async with made.client() as client:
        for number in range(rules.MAX_FAILURES):
            await tried(client, f"guess-{number}", **{"X-Forwarded-For": "198.51.100.9, 192.0.2.1, 10.0.0.1"})
        forged = {"X-Forwarded-For": "198.51.100.10, 192.0.2.1, 10.0.0.1"}
        assert (await tried(client, "more", **forged)).status_code == 429, (
            "what the client wrote itself is nothing"
        )
        other = {"X-Forwarded-For": "192.0.2.2, 10.0.0.1"}
        assert (await tried(client, "more", **other)).status_code == 401


async def test_a_header_of_who_is_no_proxy_is_not_believed() -> None:
    async with world().client() as client:
        codes = [
            (await tried(client, f"guess-{number}", **{"X-Forwarded-For": f"192.0.2.{number}"})).status_code
            for number in range(rules.MAX_FAILURES + 1)
        ]
    assert codes[-1] == 429


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 30), st.booleans()), min_size=1, max_size=200)
)
def test_attempts_agree_with_a_model(steps: list[tuple[str, float, bool]]) -> None:
    """The model keeps every failure: an address waits when the window that its first
    failure opened is full.
    """
    attempts, now = Attempts(limit=3, seconds=60.0, max_addresses=6), 0.0
    windows: dict[str, list[float]] = {}
    for address, passed, fails in steps:
        now += passed
        held = windows.get(address, [])
        if held and held[0] + 60.0 <= now:
            held = windows[address] = []
        wait = attempts.seconds_to_wait(address, now)
        assert (wait is not None) == (len(held) >= 3)
        assert wait is None or wait == pytest.approx(held[0] + 60.0 - now)
        if fails:
            windows.setdefault(address, held).append(now)
            assert attempts.failed(address, now) == len(windows[address])


def test_attempts_of_ever_new_addresses_take_no_more_memory() -> None:
    attempts = Attempts(limit=3, seconds=60.0, max_addresses=100)
    for number in range(10_000):
        attempts.failed(str(number), 0.0)
    assert len(attempts._windows) == 100
    assert attempts.failed("9999", 0.0) == 2


# Names


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("gateway.test", 401),
        ("GATEWAY.test:8080", 401),
        ("localhost:1", 401),
        ("127.0.0.1:8080", 401),
        ("[::1]:8080", 401),
        ("192.0.2.7", 401),
        ("evil.example", 421),
        ("gateway.test.evil.example", 421),
        ("gateway.test@evil.example", 421),
        ("", 421),
    ],
)
async def test_only_our_own_names_are_answered(host: str, status: int) -> None:
    async with world().client() as client:
        answer = await client.get("/v1/credits", headers={"Host": host})
        assert answer.status_code == status
        assert status != 421 or answer.json()["code"] == "request.misdirected"
        fast = await client.get(
            "/v1/connections/acme-2/status", headers={"Host": host, "Authorization": "Bearer viewer"}
        )
        assert fast.status_code == (200 if status == 401 else 421)
        assert (await client.get("/healthz", headers={"Host": host or "x"})).status_code == 200


async def test_a_request_names_one_host() -> None:
    twice = b"GET /v1/credits HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    none = b"GET /v1/credits HTTP/1.1\r\nConnection: close\r\n\r\n"
    async with serving(Readiness()) as client, sockets(client, 2) as opened:
        for (reader, writer), request in zip(opened, (twice, none), strict=True):
            writer.write(request)
            assert (await reader.readline()).split()[1] in (b"400", b"421")


async def test_a_probe_may_name_no_host() -> None:
    """As haproxy's checks do, of HTTP/1.0: every server behind it was taken for dead."""
    async with serving(Well()) as client, sockets(client, 2) as opened:
        for (reader, writer), path in zip(opened, (b"/readyz", b"/healthz"), strict=True):
            writer.write(b"GET %s HTTP/1.0\r\n\r\n" % path)
            assert (await reader.readline()).split()[1] in (b"200", b"503")


@pytest.mark.parametrize(
    ("url", "sent"), [("https://fieldgate.example", True), ("http://fieldgate.example", False)]
)
async def test_browsers_stay_with_https(url: str, sent: bool) -> None:
    made = world()
    made.mounted.entrance = mounted_for(
        HttpSettings(public_url=url, allowed_hosts=("gateway.test",))
    ).entrance
    async with made.client("viewer") as client:
        for path in ("/status", "/v1/credits", "/nowhere"):
            assert ("strict-transport-security" in (await client.get(path)).headers) is sent, path


# Metrics


@pytest.mark.parametrize(
    ("settings", "open_"),
    [
        ({"listen": "127.0.0.1:8080"}, True),
        ({"listen": "[::1]:8080"}, True),
        ({"listen": "localhost:8080"}, True),
        ({"listen": "0.0.0.0:8080"}, False),
        ({"listen": "[::]:8080"}, False),
        ({"listen": "10.0.0.5:8080"}, False),
        ({"listen": "0.0.0.0:8080", "metrics": "open"}, True),
        ({"listen": "127.0.0.1:8080", "metrics": "token"}, False),
    ],
)
async def test_metrics_need_a_token_where_others_may_come(settings: dict[str, str], open_: bool) -> None:
    made = world()
    made.mounted.entrance = mounted_for(
        HttpSettings.model_validate({"public_url": "http://gateway.test", **settings})
    ).entrance
    async with made.client(base_url="http://127.0.0.1:8080") as client:
        assert (await client.get("/metrics")).status_code == (200 if open_ else 401)
        for token, principal in TOKENS.items():
            answer = await client.get("/metrics", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == (200 if open_ or principal.customer is None else 403), token


async def test_the_fast_path_asks_for_nothing_less() -> None:
    """A token that the fast path has not seen goes the long way, and is answered the same."""
    made: World = world()
    async with made.client("globex") as client:
        assert (await client.get("/v1/connections/acme-2/status")).status_code == 404
        assert (await client.get("/v1/connections/acme-2/status")).status_code == 404


async def test_the_head_of_a_pipelined_request_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that takes its time is no reason to hold whatever comes behind its request."""

    sent = 0
    async with serving(Slow()) as client, sockets(client, 1) as [(_, writer)]:
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HTTP/1.1\r\nX: ")
        with pytest.raises(ConnectionError):
            while sent < 64 << 20:
                writer.write(b"a" * 8_000)
                await writer.drain()
                sent += 8_000
    assert sent < 16 << 20


def test_an_address_that_a_socket_of_both_kinds_writes_is_the_same() -> None:
    made = rules.Entrance(HttpSettings.model_validate({"trusted_proxies": ["10.0.0.0/8"]}))
    scope = {"client": ("::ffff:10.0.0.5", 1), "headers": [(b"x-forwarded-for", b"192.0.2.1")]}
    assert made.address(scope) == "192.0.2.1"
    assert rules.origin_of("2001:db8::1") == rules.origin_of("2001:db8::2") != rules.origin_of("2001:db9::1")


@pytest.mark.parametrize(
    ("headers", "open_"),
    [
        ({"Host": "127.0.0.1:8080"}, True),
        ({"Host": "localhost:8080"}, True),
        ({"Host": "[::1]:8080"}, True),
        ({"Host": "gateway.test"}, False),
        ({"Host": "10.0.0.5"}, False),
        ({"Host": "localhost", "X-Forwarded-For": "203.0.113.9"}, False),
        ({"Host": "localhost", "Forwarded": "for=203.0.113.9"}, False),
        ({"Host": "localhost", "X-Real-IP": "203.0.113.9"}, False),
        ({"Host": "localhost", "Via": "1.1 proxy"}, False),
    ],
    ids=str,
)
async def test_metrics_that_a_proxy_of_this_machine_asks_for_need_a_token(
    headers: dict[str, str], open_: bool
) -> None:
    """It reaches the loopback address as Prometheus here does, for whoever asked it."""
    made = world()
    made.mounted.entrance = mounted_for(HttpSettings(public_url="https://gateway.test")).entrance
    async with made.client() as client:
        assert (await client.get("/metrics", headers=headers)).status_code == (200 if open_ else 401)
        with_token = {**headers, "Authorization": "Bearer viewer"}
        assert (await client.get("/metrics", headers=with_token)).status_code == 200
