"""Where a connection may lead, as an attacher of systems would try it: nothing that a customer gives reaches
an address that the operator did not allow, by whatever name, notation, redirect, link or moment.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import asyncpg
import httpcore
import pytest
import yaml

from benchmarks.servers import PATIENCE, Postgres, free_port, wait_until
from connectors.kit import egress
from connectors.kit.http import HttpClient
from connectors.kit.oauth import OAuthExchange
from connectors.postgres import pinned
from connectors.registry import SYSTEMS
from gateway.model.address import ANYWHERE, Reach, own_database
from gateway.model.connector import ConnectorSettings
from gateway.model.credential import Credential
from gateway.model.errors import AuthRefused, BadConfiguration, ConnectorError, Unavailable
from tests.contract.pki import make_authority
from tests.fixtures.canary import Canary, Names, canary

ROOT = Path(__file__).parents[2]
PUBLIC = Reach()
LOOPBACK = Reach(networks=(ip_network("127.0.0.0/8"), ip_network("::1/128")))
CREDENTIALS: Mapping[str, Mapping[str, str]] = {
    "http_json": {"secret": "s" * 32},
    "maintainx": {"api_key": "k" * 32},
    "odata": {"api_key": "k" * 32},
    "sap_ecc": {"username": "u", "password": "p"},
    "sap_s4hana": {"username": "u", "password": "p"},
    "tryton": {"api_key": "k" * 32},
}


@pytest.fixture
async def bird() -> AsyncIterator[Canary]:
    async with canary() as found:
        yield found


def client(url: str, reach: Reach) -> HttpClient:
    return HttpClient(url, headers={}, secrets=[], timeout_seconds=5, reach=reach)


async def called(http: HttpClient, path: str = "/x") -> None:
    try:
        await http.call("probe", "GET", path)
    finally:
        await http.close()


def connector(system: str, url: str, reach: Reach) -> Any:
    sample = yaml.safe_load((ROOT / "connectors" / system / "sample.yaml").read_text())
    settings = {**sample["connections"][0]["settings"], "base_url": url}
    return SYSTEMS[system].build(
        ConnectorSettings(
            connection="c",
            hosting="cloud",
            settings=settings,
            credentials=CREDENTIALS[system],
            timeout_seconds=5,
            settings_reach=reach,
        )
    )


@pytest.mark.parametrize("system", CREDENTIALS)
async def test_no_connector_of_a_customer_calls_a_private_address(system: str, bird: Canary) -> None:
    """And each does where the operator allows the network, so that the test can tell."""
    attacker = connector(system, f"http://127.0.0.1:{bird.port}", PUBLIC)
    with pytest.raises(BadConfiguration, match=r"egress\.allow"):
        await attacker.probe()
    await attacker.close()
    assert bird.came == []
    allowed = connector(system, f"http://127.0.0.1:{bird.port}", LOOPBACK)
    with suppress(ConnectorError):
        await allowed.probe()
    await allowed.close()
    assert bird.came


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.0.0.1", "017700000001", "0", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::]",
     "user:secret@127.0.0.1", "example.com@127.0.0.1", "127.0.0.1.", "LOCALHOST"],
)  # fmt: skip
async def test_no_notation_of_this_machine_gets_through(host: str, bird: Canary) -> None:
    with pytest.raises((BadConfiguration, Unavailable)):
        await called(client(f"http://{host}:{bird.port}", PUBLIC))
    assert bird.came == []


@pytest.mark.parametrize("reach", [ANYWHERE, PUBLIC], ids=["anywhere", "public"])
@pytest.mark.parametrize("system", ["http_json", "postgres"])
async def test_names_that_hang_keep_nobody_elses(
    system: str, reach: Reach, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A zone whose servers say nothing: what all of the process share goes on, and other names are found."""
    asked: list[str] = []
    answer = threading.Event()

    def ask(host: str | bytes | None, *given: Any, **named: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        asked.append(name)
        if name.endswith("silent.example"):
            assert answer.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "no server of the zone answers")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", ask)

    async def probed(number: int) -> None:
        host = f"host-{number % 40}.silent.example"
        if system == "postgres":
            dsn = f"postgresql://u:p@{host}/d"
            made = SYSTEMS[system].build(
                ConnectorSettings(
                    connection="c",
                    hosting="cloud",
                    settings={},
                    credentials={"dsn": dsn},
                    timeout_seconds=60,
                    credentials_reach=reach,
                )
            )
            await made.probe()
        else:
            await client(f"http://{host}", reach).call("probe", "GET", "/x")

    waiting = [asyncio.create_task(probed(number)) for number in range(80)]
    try:
        await wait_until(lambda: len(asked) >= 8, what="names are asked for")
        async with asyncio.timeout(10 * PATIENCE):
            assert await asyncio.to_thread(lambda: "a thread of everybody's") is not None
            assert await asyncio.get_running_loop().getaddrinfo("database.example", 5432)
            assert await egress.look_up("other.example", 443) == ["127.0.0.1"]
        silent = [name for name in asked if name.endswith("silent.example")]
        assert len(silent) == len(set(silent)) == 8, "each once, and of one zone some"
    finally:
        answer.set()
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_name_that_changes_its_meaning_is_judged_at_each_connection(
    bird: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Public when it is given, private when it is called; or good in the first answer
    and not in the second.
    """
    names = Names(
        {"rebound.example": [["169.254.169.254"], ["10.0.0.1", "::1"], ["fe80::1%lo"], ["127.0.0.1"]]}
    )
    monkeypatch.setattr(egress, "look_up", names)
    http = client(f"http://rebound.example:{bird.port}", PUBLIC)
    for _ in range(4):
        with pytest.raises(BadConfiguration, match=r"rebound\.example"):
            await http.call("probe", "GET", "/x")
    await http.close()
    assert bird.came == [] and len(names.asked) == 4


async def test_the_connection_goes_to_the_address_that_was_judged(
    bird: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One question for a connection: an answer that comes later would be another."""
    names = Names({"site.example": [["127.0.0.7", "127.0.0.9"], ["127.0.0.9"]]})
    monkeypatch.setattr(egress, "look_up", names)
    await called(client(f"http://site.example:{bird.port}", Reach(networks=(ip_network("127.0.0.7/32"),))))
    assert bird.came == ["127.0.0.7"] and names.asked == ["site.example"]
    assert b"host: site.example" in bird.said[0].lower()


async def test_a_refusal_tells_nothing_of_what_lies_behind_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "look_up", Names({"db.corp": [["10.99.88.77"]]}))
    with pytest.raises(BadConfiguration) as refused:
        await called(client("https://db.corp", PUBLIC))
    assert "db.corp" in str(refused.value) and "10.99" not in str(refused.value)


@pytest.mark.parametrize(
    "location", ["http://169.254.169.254/latest/meta-data/", "//127.0.0.1/", "gopher://127.0.0.1:6379/"]
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_leads_anywhere(
    status: int, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names({"site.example": [["127.0.0.1"]]})
    monkeypatch.setattr(egress, "look_up", names)
    answer = f"HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n".encode()
    async with canary(answer=answer) as site:
        with pytest.raises((BadConfiguration, Unavailable), match="redirect"):
            await called(client(f"http://site.example:{site.port}", LOOPBACK))
        assert len(site.came) == 1 and names.asked == ["site.example"]


@pytest.mark.parametrize("reach", [PUBLIC, LOOPBACK, Reach(everywhere=True)])
@pytest.mark.parametrize(
    "link", ["http://127.0.0.1:{port}/next", "https://127.0.0.1:{port}/", "HTTP://LOCALHOST:{port}/x"]
)
async def test_a_link_of_a_page_never_takes_the_credential_to_another_host(
    link: str, reach: Reach, bird: Canary
) -> None:
    http = HttpClient(
        f"http://127.0.0.1:{free_port()}",
        headers={"authorization": "Bearer secret"},
        secrets=["secret"],
        timeout_seconds=5,
        reach=reach,
    )
    with pytest.raises(BadConfiguration, match="another host"):
        await called(http, link.format(port=bird.port))
    assert bird.came == []


async def test_the_proxy_of_the_environment_takes_no_customer_further(
    bird: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would resolve the name itself."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{bird.port}")
    monkeypatch.setattr(egress, "look_up", Names({"inner.corp": [["10.0.0.1"]]}))
    with pytest.raises(BadConfiguration):
        await called(client("http://inner.corp", PUBLIC))
    assert bird.came == []


@pytest.mark.parametrize("endpoint", ["token_url", "revocation_url"])
async def test_no_authorization_server_of_a_customer_is_private(endpoint: str, bird: Canary) -> None:
    values = {endpoint: f"http://127.0.0.1:{bird.port}/token", "client_id": "c", "client_secret": "s" * 16}

    async def ask(reach: Reach) -> None:
        credential = Credential(generation=1, type="oauth2_client_credentials", values=values, reach=reach)
        exchange = OAuthExchange()
        if endpoint == "token_url":
            await exchange.refresh(credential, None, timeout_seconds=5)
        else:
            await exchange.revoke(credential, "token", timeout_seconds=5)

    with pytest.raises(BadConfiguration, match=r"egress\.allow"):
        await ask(PUBLIC)
    assert bird.came == []
    with suppress(ConnectorError):
        await ask(LOOPBACK)
    assert bird.came


# PostgreSQL


def sink(dsn: str, reach: Reach) -> Any:
    return SYSTEMS["postgres"].build(
        ConnectorSettings(
            connection="c",
            hosting="cloud",
            settings={},
            credentials={"dsn": dsn},
            timeout_seconds=5,
            credentials_reach=reach,
        )
    )


async def refused(dsn: str, reach: Reach, words: str) -> None:
    with pytest.raises(BadConfiguration, match=words) as error:
        attacker = sink(dsn, reach)
        try:
            await attacker.probe()
        finally:
            await attacker.close()
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "127.1", "%31%32%37.0.0.1"],
)
async def test_no_dsn_of_a_customer_leads_to_this_machine(host: str, bird: Canary) -> None:
    with pytest.raises((BadConfiguration, Unavailable)):
        await sink(f"postgresql://u:s3cret@{host}:{bird.port}/d", PUBLIC).probe()
    assert bird.came == []


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("u:s3cret@/d?host=/var/run/postgresql", "host"), ("u:s3cret@db.example/d?host=127.0.0.1", "host"),
        ("u:s3cret@db.example/d?hostaddr=127.0.0.1", "parameter"), ("u:s3cret@db.example/d?service=own", "service"),
        ("u:s3cret@db.example/d?passfile=/etc/passwd", "passfile"), ("u:s3cret@db.example/d?sslrootcert=/etc/shadow", "sslrootcert"),
        ("u:s3cret@db.example/d?sslkey=/etc/fieldgate/key", "sslkey"), ("u@db.example/d", "password"), ("db.example/d", "role"),
        ("u:s3cret@/d", "host"), ("u:s3cret@db.example/d?sslmode=parse", "sslmode"), ("u:s3cret@[db.example/d", "host"),
    ],
)  # fmt: skip
async def test_what_a_dsn_of_a_customer_may_not_say(
    rest: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGHOST", "PGPASSWORD", "PGUSER", "PGDATABASE"):
        monkeypatch.setenv(name, "s3cret-of-the-gateway")
    monkeypatch.setattr(pinned, "addresses", Names({"db.example": [["127.0.0.1"]]}))
    await refused(f"postgresql://{rest}", LOOPBACK, words)


async def test_a_dsn_names_one_host(bird: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names({"gone.example": [["127.0.0.8"]], "inner.corp": [["127.0.0.1"]]})
    monkeypatch.setattr(egress, "look_up", names)
    dsn = f"postgresql://u:s3cret@gone.example:{free_port()},inner.corp:{bird.port}/d?sslmode=disable"
    await refused(dsn, Reach(networks=(ip_network("127.0.0.8/32"),)), "one host")
    assert bird.came == [] and names.asked == []


@pytest.fixture
def full() -> Iterator[int]:
    """A port of 127.0.0.2 that takes no connection and refuses none: its backlog is full."""
    with socket.create_server(("127.0.0.2", 0), backlog=0) as server, ExitStack() as stack:
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server.getsockname()[1]


async def test_an_address_that_does_not_answer_holds_up_no_other(
    full: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress, "look_up", Names({"two.example": [["127.0.0.2", "127.0.0.1"]]}))
    bird = Canary(port=full)
    server = await asyncio.start_server(bird.meet, "127.0.0.1", full)
    await called(client(f"http://two.example:{full}", LOOPBACK))  # within its five seconds
    assert bird.came == ["127.0.0.1"]
    server.close()


@pytest.mark.parametrize(
    ("ways", "came"), [("refuses slow", "slow"), ("slow slow slow", "slow"), ("slower slow", "slow")]
)
async def test_of_several_addresses_the_first_that_connects_is_used_and_the_others_are_closed(
    ways: str, came: str
) -> None:
    opened: list[Opened] = []

    async def way(name: str) -> httpcore.AsyncNetworkStream:
        if name == "refuses":
            raise httpcore.ConnectError("refused")
        stream = Opened(name)
        with suppress(asyncio.CancelledError):  # connected in the same moment
            await asyncio.sleep({"slow": 0.3, "slower": 0.56}[name])
        opened.append(stream)
        return stream

    stream = await egress.first_to_connect([partial(way, name) for name in ways.split()])
    assert isinstance(stream, Opened) and stream.name == came and not stream.is_closed
    assert all(each.is_closed for each in opened if each is not stream)


class Opened(httpcore.AsyncNetworkStream):
    def __init__(self, name: str) -> None:
        self.name, self.is_closed = name, False

    async def aclose(self) -> None:
        self.is_closed = True


async def test_where_no_address_connects_the_first_ones_reason_is_told() -> None:
    async def way(reason: str) -> httpcore.AsyncNetworkStream:
        raise httpcore.ConnectError(reason)

    with pytest.raises(httpcore.ConnectError, match="first"):
        await egress.first_to_connect([partial(way, "first"), partial(way, "second")])


async def test_every_address_of_a_name_is_judged(bird: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "look_up", Names({"two.example": [["127.0.0.8", "127.0.0.1"]]}))
    dsn = f"postgresql://u:s3cret@two.example:{bird.port}/d?sslmode=disable"
    with pytest.raises(
        (BadConfiguration, Unavailable)
    ):  # the one that is allowed is tried, and nobody is there
        await sink(dsn, Reach(networks=(ip_network("127.0.0.8/32"),))).probe()
    assert set(bird.came) == {"127.0.0.8"}


async def test_an_address_that_does_not_answer_holds_up_no_sink(
    full: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress, "look_up", Names({"two.example": [["127.0.0.2", "127.0.0.1"]]}))
    bird = Canary(port=full, answer=b"")
    server = await asyncio.start_server(bird.meet, "127.0.0.1", full)
    with suppress(ConnectorError):
        await sink(f"postgresql://u:s3cret@two.example:{full}/d?sslmode=disable", LOOPBACK).probe()
    assert bird.came and set(bird.came) == {"127.0.0.1"}
    server.close()


async def test_a_sink_that_is_allowed_works_and_its_name_may_move(
    postgres_server: Postgres, empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names({"warehouse.corp": [["127.0.0.1"], ["10.0.0.1"]]})
    monkeypatch.setattr(egress, "look_up", names)
    database = empty_dsn.rpartition("/")[2]
    dsn = f"postgresql://postgres:s3cret@warehouse.corp:{postgres_server.port}/{database}?sslmode=disable"
    connector = sink(dsn, LOOPBACK)
    assert (await connector.probe()).account
    await connector.close()
    with pytest.raises(BadConfiguration, match=r"warehouse\.corp"):
        await connector.probe()
    await connector.close()


async def test_the_gateways_own_database_is_no_sink(
    postgres_server: Postgres, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its address, and, behind a name or a proxy that nobody knows, by what is in it."""
    database = dsn.rpartition("/")[2]
    given = f"postgresql://postgres:s3cret@127.0.0.1:{postgres_server.port}/{database}?sslmode=disable"
    known = Reach(networks=LOOPBACK.networks, own_database=own_database(dsn))
    before: list[object] = []

    async def never(*_: object, **__: object) -> None:
        before.append(1)

    with monkeypatch.context() as patched:
        patched.setattr(asyncpg, "connect", never)
        await refused(given, known, "own database")
    assert before == []  # not even a logon is tried
    await refused(given, LOOPBACK, "own database")


class TlsDatabase:
    """Answers a PostgreSQL's SSLRequest, remembers which name was asked for, and takes nobody further."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.names: list[str | None] = []
        self.passwords = 0
        context.sni_callback = lambda _s, name, _c: self.names.append(name)
        self._context = context

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readexactly(8)
            writer.write(b"S")
            await writer.start_tls(self._context)
            length, _ = struct.unpack("!ii", await reader.readexactly(8))
            await reader.readexactly(length - 8)
            self.passwords += 1
            message = b"SFATAL\0VFATAL\0C28P01\0Mno\0\0"
            writer.write(b"E" + struct.pack("!i", len(message) + 4) + message)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@pytest.mark.parametrize(
    ("issued_for", "mode", "comes_through"),
    [
        ("warehouse.corp", "verify-full", True), ("other.corp", "verify-full", False), ("other.corp", "verify-ca", True),
        ("other.corp", "require", True), ("other.corp", "prefer", True),
    ],
)  # fmt: skip
async def test_certificates_are_checked_against_the_name_of_a_pinned_database(
    issued_for: str,
    mode: str,
    comes_through: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority = make_authority("authority")
    certificate, key = authority.issue(issued_for)
    (tmp_path / "ca.pem").write_text(authority.pem)
    (tmp_path / "server.pem").write_text(certificate + key)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setattr(egress, "look_up", Names({"warehouse.corp": [["127.0.0.1"]]}))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    database = TlsDatabase(context)
    port = free_port()
    async with await asyncio.start_server(database.meet, "127.0.0.1", port):
        with pytest.raises(AuthRefused if comes_through else Unavailable):
            await sink(f"postgresql://u:s3cret@warehouse.corp:{port}/d?sslmode={mode}", LOOPBACK).probe()
    assert database.names == ["warehouse.corp"]
    assert bool(database.passwords) is comes_through


async def test_a_pinned_database_gets_no_password_in_clear_unless_asked(bird: Canary) -> None:
    """`prefer` would go on without TLS."""
    bird.answer = b"N"
    with pytest.raises(Unavailable):
        await sink(f"postgresql://u:s3cret@127.0.0.1:{bird.port}/d?sslmode=prefer", LOOPBACK).probe()
    assert all(b"s3cret" not in said and b"user" not in said for said in bird.said) and bird.said
