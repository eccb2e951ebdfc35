"""What clients of one origin share, connections and TLS contexts, and what they never do."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.servers import PATIENCE, wait_until
from connectors.kit import egress, pools
from connectors.kit.http import HttpClient
from connectors.kit.tls import shared_context, tls_context
from connectors.registry import SYSTEMS
from gateway.model.address import ANYWHERE, Reach
from gateway.model.connector import ConnectorSettings
from gateway.model.errors import BadConfiguration
from tests.contract.pki import make_authority

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
LOOPBACK = Reach(networks=(ip_network("127.0.0.0/8"),))


@dataclass
class Site:
    """Answers each request by its path, and keeps connections open. `requests`: (connection, head)."""

    port: int = 0
    answers: dict[str, bytes] = field(default_factory=dict)
    afterthoughts: dict[str, bytes] = field(default_factory=dict)
    """By path: what is said once somebody has `asked` for it, behind the answer."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    added: int = 0
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    requests: list[tuple[int, str]] = field(default_factory=list)
    connections: int = 0
    open: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        number = self.connections
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.requests.append((number, head))
                path = head.split(" ")[1]
                if path == "/slow":
                    await self.hold.wait()
                writer.write(self.answers.get(path, OK))
                await writer.drain()
                if path in self.afterthoughts:
                    await self.asked.wait()
                    writer.write(self.afterthoughts[path])
                    await writer.drain()
                    self.added += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    found = Site()
    server = await asyncio.start_server(found.meet, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        found.hold.set()
        server.close()


Make = Callable[..., HttpClient]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[HttpClient] = []

    def client(url: str, key: str = "k", **how: object) -> HttpClient:
        made.append(
            HttpClient(url, headers={"x-key": key}, secrets=[], timeout_seconds=5, **how)  # type: ignore[arg-type]
        )
        return made[-1]

    yield client
    for one in made:
        await one.close()
    assert not pools._POOLS.get(asyncio.get_running_loop()), "a pool outlived its last user"


def http_json(name: str) -> Awaitable[None]:
    """Builds one; what closes it."""
    built = SYSTEMS["http_json"].build(
        ConnectorSettings(
            connection=name,
            hosting="cloud",
            settings={"base_url": "https://receiver.example", "path": "/readings"},
            credentials={"api_key": f"key of {name}"},
            timeout_seconds=5,
        )
    )
    return built.close()


async def test_a_connection_costs_no_context_and_hardly_any_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    closing = [http_json("first")]
    before = egress.default_context()
    monkeypatch.setattr(
        "ssl.SSLContext.load_verify_locations", lambda *_, **__: pytest.fail("authorities are read again")
    )
    tracemalloc.start()
    try:
        start = tracemalloc.get_traced_memory()[0]
        closing += [http_json(f"c{number}") for number in range(100)]
        grown = tracemalloc.get_traced_memory()[0] - start
    finally:
        tracemalloc.stop()
    assert egress.default_context() is before
    assert grown / 100 <= 20_000
    for close in closing:
        await close


async def test_clients_of_one_origin_share_connections_and_nothing_else(make: Make) -> None:
    async with site() as found:
        found.answers["/login"] = OK.replace(b"content-length", b"set-cookie: session=acme\r\ncontent-length")
        first, second = make(found.url, "acme"), make(found.url, "globex")
        await first.call("x", "GET", "/login")
        await second.call("x", "GET", "/mine")
        await first.call("x", "GET", "/again")
        assert found.connections == 1
        heads = [head for _, head in found.requests]
        assert ["session=acme" in head for head in heads] == [False, False, True]
        assert [head.count("x-key: acme") for head in heads] == [1, 0, 1]
        assert "x-key: globex" in heads[1]


async def test_one_that_is_closed_takes_no_connection_from_the_others(make: Make) -> None:
    async with site() as found:
        first, second = make(found.url), make(found.url)
        for client in (first, second):
            await client.call("x", "GET", "/a")
        await first.close()
        await first.close()
        await second.call("x", "GET", "/b")
        assert found.connections == 1
        await second.close()
        await wait_until(lambda: found.open == 0, what="the last one closed the connection")


async def test_a_connection_of_wider_rules_serves_no_narrower_ones(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a name, and in whatever order they come."""

    async def loopback(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    monkeypatch.setattr(egress, "look_up", loopback)
    async with site() as found:
        url = f"http://receiver.example:{found.port}"
        other = Reach(networks=(ip_network("10.0.0.0/8"),))
        wide = make(url, reach=LOOPBACK)
        for narrow in (Reach(), other):
            await wide.call("x", "GET", "/wide")
            with pytest.raises(BadConfiguration, match=r"egress\.allow"):
                await make(url, "narrow", reach=narrow).call("x", "GET", "/narrow")
        await make(found.url, reach=ANYWHERE).call("x", "GET", "/anywhere")
        with pytest.raises(BadConfiguration, match=r"egress\.allow"):
            await make(found.url, reach=Reach()).call("x", "GET", "/narrow")
        assert not any("narrow" in head for _, head in found.requests)
        await make(url, reach=LOOPBACK).call("x", "GET", "/equal")
        assert found.connections == 2


async def test_a_context_of_ones_own_has_connections_of_its_own(make: Make) -> None:
    """A client certificate is in a context, and says who calls for as long as the connection lasts."""
    async with site() as found:
        own, others = tls_context(), tls_context()
        assert own is not others
        for number, tls in enumerate((own, others, None, own), 1):
            await make(found.url, tls=tls).call("x", "GET", f"/{number}")
        assert [connection for connection, _ in found.requests] == [1, 2, 3, 1]


def test_authorities_are_shared_while_they_are_the_same(tmp_path: Path) -> None:
    ca, other = make_authority("one"), make_authority("two")
    path = tmp_path / "ca.pem"
    path.write_text(ca.pem)
    by_file, by_text = shared_context(ca_file=path), shared_context(ca_pem=ca.pem)
    assert shared_context(ca_file=path) is by_file and shared_context(ca_pem=ca.pem) is by_text
    assert len({id(one) for one in (by_file, by_text, shared_context())}) == 3
    (tmp_path / "new").write_text(other.pem)
    (tmp_path / "new").rename(path)
    assert shared_context(ca_file=path) is not by_file
    with pytest.raises(BadConfiguration, match="ca_file"):
        shared_context(ca_file=tmp_path / "nowhere")


async def test_a_slow_customer_takes_no_place_of_another(make: Make) -> None:
    async with site() as found:
        slow, quick = make(found.url, "slow"), make(found.url, "quick")
        waiting = [asyncio.create_task(slow.call("x", "GET", "/slow")) for _ in range(3 * pools.PLACES)]
        await wait_until(lambda: found.open == pools.PLACES, what="the slow one has all its places")
        await asyncio.wait_for(quick.call("x", "GET", "/quick"), 2 * PATIENCE)
        assert found.open == pools.PLACES + 1
        found.hold.set()
        await asyncio.gather(*waiting)
        assert found.connections <= pools.PLACES + 1


async def test_a_call_that_fails_or_is_cancelled_gives_its_place_back(make: Make) -> None:
    async with site() as found:
        client = make(found.url)
        for _ in range(2 * pools.PLACES):
            call = asyncio.create_task(client.call("x", "GET", "/slow"))
            await wait_until(lambda: bool(found.requests), what="it has arrived")
            found.requests.clear()
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        await client.call("x", "GET", "/good")


@pytest.mark.parametrize("behind", [OK, b"HTTP/1.1 200", b"\r\n\r\n"])
async def test_what_comes_behind_an_answer_is_nobodys(make: Make, behind: bytes) -> None:
    """A receiver that one customer controls, behind an address that others use too, answers twice."""
    async with site() as found:
        found.answers["/twice"] = OK + behind.replace(b"{}", b"[]")
        attacker, victim = make(found.url), make(found.url)
        for _ in range(3):
            await attacker.call("x", "GET", "/twice")
            assert (await victim.call("x", "GET", "/good")).json == {}
        assert found.connections > 3, "a connection with something behind the answer was used again"


@pytest.mark.parametrize("behind", [OK.replace(b"{}", b"[]"), b"HTTP/1.1 200", b"\r\n"])
async def test_what_comes_while_nobody_asks_is_nobodys(make: Make, behind: bytes) -> None:
    """It says more once its connection rests: whoever calls next on it would take that for the answer. Some
    well-kept clients do (aiohttp 3.14).
    """
    async with site() as found:
        found.afterthoughts["/later"] = behind
        attacker, victim = make(found.url), make(found.url)
        await attacker.call("x", "GET", "/later")
        found.asked.set()
        await wait_until(lambda: found.added == 1, what="more was said")
        assert (await victim.call("x", "GET", "/good")).json == {}
        assert [connection for connection, _ in found.requests] == [1, 2]


async def test_a_link_with_a_user_in_it_does_not_replace_the_credential(make: Make) -> None:
    """A system says where its next page is, and may name a user there: httpx's client would log on as him."""
    async with site() as found:
        client = make(found.url)
        await client.call(
            "x",
            "GET",
            f"http://eve:pw@127.0.0.1:{found.port}/next",
            headers={"authorization": "Bearer ours"},
        )
        ((_, head),) = found.requests
        said = [line for line in head.lower().split("\r\n") if line.startswith("authorization:")]
        assert said == ["authorization: bearer ours"]


async def test_a_call_of_the_same_path_parses_no_address_and_sets_one_timer(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of idle connections make such calls all day."""
    parsed: list[object] = []
    timers: list[float] = []
    loop = asyncio.get_running_loop()
    at, parse = loop.call_at, vars(httpx._urls)["urlparse"]

    def urlparse(*given: Any, **named: Any) -> Any:
        parsed.append(given)
        return parse(*given, **named)

    def call_at(when: float, *given: Any, **named: Any) -> asyncio.TimerHandle:
        timers.append(when)
        return at(when, *given, **named)

    async with site() as own:
        client = make(own.url + "/api")
        for path in ("a", "a?x=1", "a"):
            await client.call("probe", "GET", path)
        monkeypatch.setattr(httpx._urls, "urlparse", urlparse)
        monkeypatch.setattr(loop, "call_at", call_at)
        await client.call("probe", "GET", "a")
        assert parsed == []
        assert len(timers) == 1
        await client.call("probe", "GET", "a", params={"y": "2"})
        await client.call("probe", "GET", "a")
        await client.call("probe", "GET", "/b")
    asked = [head.split(" ")[1] for _, head in own.requests]
    assert asked == ["/api/a", "/api/a?x=1", "/api/a", "/api/a", "/api/a?y=2", "/api/a", "/api/b"]


async def test_an_address_of_another_host_is_not_called_the_second_time_either(make: Make) -> None:
    async with site() as own, site() as other:
        client = make(own.url)
        for _ in range(2):
            with pytest.raises(BadConfiguration, match="another host"):
                await client.call("pull", "GET", other.url + "/a")
    assert not other.requests
