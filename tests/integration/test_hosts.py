"""Several hosts in the gateway's own DSN: the one that takes writes, soon, and never
one that was replaced.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from urllib.parse import quote

import asyncpg
import pytest
from asyncpg.connect_utils import _parse_connect_arguments  # type: ignore[attr-defined]
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.servers import Postgres, free_port
from benchmarks.standby import Standby
from gateway.model.dsn import each_host, fault_of
from gateway.model.errors import StoreUnavailable
from gateway.store.hosts import DatabaseHosts
from gateway.store.pool import Database

HOST = st.sampled_from(["db1", "db-2.example", "10.0.0.7", "[::1]", "[fd00::7]"])
PORT = st.none() | st.integers(1, 65535)
SECRET = st.text(st.characters(min_codepoint=33, max_codepoint=0x17F), max_size=12).filter(str.isprintable)


@given(
    hosts=st.lists(st.tuples(HOST, PORT), min_size=1, max_size=4),
    account=st.none() | st.tuples(SECRET.filter(bool), SECRET),
    tail=st.sampled_from(
        ["", "?sslmode=disable", "?sslmode=disable&application_name=a%20b", "?connect_timeout=3"]
    ),
    behind=st.booleans(),
)
def test_each_host_is_what_the_driver_would_have_asked(
    hosts: Sequence[tuple[str, int | None]], account: tuple[str, str] | None, tail: str, behind: bool
) -> None:
    """In their order, with the same account, database and parameters, however they are written."""
    who = (
        ""
        if account is None
        else quote(account[0], safe="") + (f":{quote(account[1], safe='')}" if account[1] else "") + "@"
    )
    if behind:
        names = ",".join(host.strip("[]") if ":" not in host else "db9" for host, _ in hosts)
        ports = ",".join(str(port or 5432) for _, port in hosts)
        dsn = f"postgresql://{who}/gateway?host={names}&port={ports}{tail.replace('?', '&')}"
    else:
        authority = ",".join(host if port is None else f"{host}:{port}" for host, port in hosts)
        dsn = f"postgresql://{who}{authority}/gateway{tail}"
    assert fault_of(dsn) is None

    def parsed(text: str) -> tuple[list[object], object]:
        addresses, given, _ = _parse_connect_arguments(
            dsn=text, host=None, port=None, user=None, password="" if account is None or not account[1] else None,
            passfile="/dev/null", database=None, command_timeout=None, statement_cache_size=0, max_cached_statement_lifetime=0,
            max_cacheable_statement_size=0, ssl=None, direct_tls=None, server_settings=None, target_session_attrs=None,
            krbsrvname=None, gsslib=None, service=None, servicefile=None,
        )  # fmt: skip
        return list(addresses), (
            given.user,
            given.password,
            given.database,
            given.sslmode,
            given.server_settings,
        )

    whole, settings = parsed(dsn)
    one_by_one = [parsed(text) for text in each_host(dsn)]
    assert [address for addresses, _ in one_by_one for address in addresses] == whole
    assert all(one == settings for _, one in one_by_one)


@pytest.fixture
async def silent() -> AsyncIterator[int]:
    """A machine that takes the connection and never says a word, as one that is switched off says none."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_a_host_that_says_nothing_costs_its_share_once(dsn: str, silent: int) -> None:
    both = dsn.replace("@127.0.0.1:", f"@127.0.0.1:{silent},127.0.0.1:")
    hosts = DatabaseHosts(both, silent_seconds=5.0)
    began = time.monotonic()
    (await hosts.connect(timeout=2.0)).terminate()
    assert time.monotonic() - began < 4.0
    began = time.monotonic()
    (await hosts.connect(timeout=2.0)).terminate()
    assert time.monotonic() - began < 0.9, "the silent one was asked first again"


async def test_hosts_that_are_away_are_passed_by_and_a_database_opens(dsn: str) -> None:
    several = dsn.replace("@127.0.0.1:", f"@127.0.0.1:{free_port()},127.0.0.1:{free_port()},127.0.0.1:")
    database = await Database.open(several, size=2)
    try:
        assert await database.is_ready()
        async with database.pinned(silent_seconds=5.0) as session:
            assert (
                await session.fetchval("select current_setting('client_connection_check_interval')") == "1s"
            )
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                shown = session._transport.get_extra_info("socket")  # type: ignore[attr-defined]
                with socket.socket(fileno=socket.dup(shown.fileno())) as same:
                    assert 4000 <= same.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 6000
    finally:
        await database.close()
    with pytest.raises(StoreUnavailable):
        await Database.open(f"postgresql://u:p@127.0.0.1:{free_port()},127.0.0.1:{free_port()}/x", size=1)


async def test_of_two_that_take_writes_the_one_that_was_promoted_last(
    make_postgres: Callable[..., Awaitable[Postgres]],
) -> None:
    """Whatever their order, also by whoever starts now; and rather none than the old one."""
    old = await make_postgres()
    await old.create("gateway")
    async with AsyncExitStack() as stack:
        new = Standby(old)
        stack.callback(new.remove)
        stack.push_async_callback(new.stop)
        await new.follow()
        ports = (old.port, new.port)
        asked = [
            DatabaseHosts(
                "postgresql://postgres:postgres@"
                + ",".join(f"127.0.0.1:{port}" for port in order)
                + "/gateway",
                silent_seconds=5.0,
            )
            for order in (ports, ports[::-1])
        ]
        for hosts in asked:
            assert await _port(hosts) == old.port
        await new.promote()
        for hosts in asked:
            await _port(hosts)
            hosts_now = DatabaseHosts(
                f"postgresql://postgres:postgres@127.0.0.1:{old.port},127.0.0.1:{new.port}/gateway",
                silent_seconds=5.0,
            )
            assert await _port(hosts_now) == new.port
        await new.stop()
        with pytest.raises(OSError, match="the server was replaced"):
            await _port(hosts_now)
        assert await _port(asked[0]) == old.port, "who never saw the new one cannot know"


async def _port(hosts: DatabaseHosts) -> int:
    session = await hosts.connect(timeout=6.0)
    try:
        port: int = await session.fetchval("select current_setting('port')::int")
        return port
    finally:
        session.terminate()


async def test_the_errors_of_a_single_host_are_as_ever(dsn: str) -> None:
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await DatabaseHosts(dsn.rpartition("/")[0] + "/no_such_database", silent_seconds=5.0).connect(
            timeout=5.0
        )
    with pytest.raises(OSError):
        await DatabaseHosts(f"postgresql://u:p@127.0.0.1:{free_port()}/x", silent_seconds=5.0).connect(
            timeout=5.0
        )
