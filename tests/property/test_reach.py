"""Where a setting leads, however it is written, and which addresses may be called."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.address import (
    ANYWHERE,
    Reach,
    is_public,
    own_database,
    same_database,
    targets,
    targets_of,
)

SITE = Reach(networks=(ip_network("10.20.0.0/16"), ip_network("fd00:20::/32")))
HOSTS = st.one_of(
    st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z][a-z0-9]{1,10}){0,2}", fullmatch=True),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    st.sampled_from(["127.1", "2130706433", "0x7f.0.0.1", "017700000001", "0"]),
)
WORDS = st.text("abc@:%?#é ", max_size=8)


@given(
    HOSTS,
    st.none() | st.integers(1, 65535),
    st.sampled_from(["https", "http", "HTTPS"]),
    st.none() | st.from_regex(r"[a-z@]{1,10}(:[a-z@]{0,10})?", fullmatch=True),
    st.sampled_from(
        ["", "/", "/a/b", "/@evil.example", "?x=@evil.example", "#@evil.example", "/\\@evil.example"]
    ),
)
def test_the_host_is_the_one_that_would_be_called(
    host: str, port: int | None, scheme: str, user: str | None, rest: str
) -> None:
    """As the HTTP client reads it: user, path and query lead nobody astray."""
    url = f"{scheme}://{'' if user is None else user.replace('@', '%40') + '@'}{host}{'' if port is None else f':{port}'}{rest}"
    (found,) = targets_of("base_url", url)
    called = httpx.URL(url)
    assert found.host == called.host
    assert found.port == (called.port or (443 if scheme.lower() == "https" else 80))


@given(st.dictionaries(WORDS, st.recursive(WORDS | st.none() | st.integers(), st.lists, max_leaves=10)))
def test_no_text_is_too_odd_to_be_looked_at(values: dict[str, object]) -> None:
    list(targets({**values, "url": next(iter(values), "x"), "nested": {"dsn": "postgres://,,[:@/?host=,"}}))


@given(st.ip_addresses())
def test_what_is_allowed_is_the_public_internet_and_the_named_networks(
    address: IPv4Address | IPv6Address,
) -> None:
    assert ANYWHERE.covers(str(address))
    assert Reach().covers(str(address)) == is_public(str(address))
    if isinstance(address, IPv4Address):
        for wrapped in (f"::ffff:{address}", f"64:ff9b::{address}"):
            assert SITE.covers(wrapped) == SITE.covers(str(address))


@pytest.mark.parametrize(
    ("address", "may"),
    [
        ("10.20.3.4", True), ("::ffff:10.20.3.4", True), ("fd00:20::1", True), ("10.21.0.1", False), ("fd00:21::1", False),
        ("127.0.0.1", False), ("::1", False), ("169.254.169.254", False), ("::ffff:169.254.169.254", False),
        ("fe80::1%eth0", False), ("fd00:20::1%eth0", False), ("0.0.0.0", False), ("::", False), ("", False), ("name", False),
        ("192.168.0.1", False), ("93.184.216.34", True), ("2606:4700::1", True), ("2002:7f00:1::", False),
    ],
)  # fmt: skip
def test_a_site_reaches_its_own_network_and_the_internet(address: str, may: bool) -> None:
    assert SITE.covers(address) is may


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://u:p@one.example,10.0.0.5:6432/d", [("one.example", 5432, "d"), ("10.0.0.5", 6432, "d")]),
        ("postgresql://u:p%40x@db.example/d?host=127.0.0.1", [("db.example", 5432, "d"), ("127.0.0.1", 5432, "d")]),
        ("postgresql://u:p@db/d?hostaddr=10.0.0.5", [("db", 5432, "d"), ("10.0.0.5", 5432, "d")]),
        ("postgres://u:p@[::1]:5433/d?dbname=other", [("::1", 5433, "d")]),
        ("postgresql://u:p@db.example", [("db.example", 5432, "u")]),
    ],
)  # fmt: skip
def test_every_host_of_a_dsn_is_seen(dsn: str, expected: list[tuple[str, int, str]]) -> None:
    found = list(targets({"dsn": dsn}))
    assert [(one.host, one.port, one.database) for one in found] == expected
    assert {one.setting for one in found} == {"dsn"}


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql:///fieldgate",
        "postgresql://u:p@/fieldgate?host=/run/postgresql",
        "postgresql://u@localhost/fieldgate",
    ],
)
def test_a_gateways_database_behind_a_socket_is_on_this_machine(dsn: str) -> None:
    (own,) = own_database(dsn)
    (theirs,) = targets_of("dsn", "postgresql://u:p@127.0.0.2/fieldgate")
    (other,) = targets_of("dsn", "postgresql://u:p@127.0.0.2/another")
    assert own.host == "localhost"
    assert same_database(theirs, ["127.0.0.2"], own, ["::1", "127.0.0.1"])
    assert not same_database(other, ["127.0.0.2"], own, ["127.0.0.1"])
    assert not same_database(theirs, ["10.0.0.5"], own, ["127.0.0.1"])
    assert not same_database(theirs, ["127.0.0.2"], own, [])
    assert not same_database(theirs, ["name"], own, ["127.0.0.1"])
    assert not same_database(theirs, ["10.0.0.5"], own, ["name"])
    assert same_database(theirs, ["10.0.0.5", "10.0.0.6"], own, ["10.0.0.7", "::ffff:10.0.0.6"])


@pytest.mark.parametrize(
    ("dsn", "places"),
    [
        ("postgresql:///d", ["localhost:5432"]),
        ("postgresql:///d?sslmode=disable", ["localhost:5432"]),
        ("postgresql:///d?port=5433", ["localhost:5433"]),
        ("postgresql://u:p@/d?host=/run/postgresql&port=5433", ["localhost:5433"]),
        ("postgresql://u:p@/d?host=@abstract", ["localhost:5432"]),
        ("postgresql://u:p@%2Frun%2Fpostgresql:5433/d", ["localhost:5433"]),
        ("postgresql://u:p@%2Frun%2Fpostgresql,db.example:6432/d", ["localhost:5432", "db.example:6432"]),
        (
            "postgresql://u:p@/d?host=/run/postgresql,10.0.0.5&port=5433,5434",
            ["localhost:5433", "10.0.0.5:5434"],
        ),
        ("postgresql://u:p@/d?host=10.0.0.5,10.0.0.6&port=6432", ["10.0.0.5:6432", "10.0.0.6:6432"]),
        ("postgresql://u:p@one.example:5433,two.example/d", ["one.example:5433", "two.example:5432"]),
        ("postgresql://u:p@one.example/d?port=5433", ["one.example:5432"]),  # as the driver has it
    ],
)
def test_the_gateways_database_is_at_each_of_its_hosts(dsn: str, places: list[str]) -> None:
    found = own_database(dsn)
    assert [f"{one.host}:{one.port}" for one in found] == places
    assert {(one.setting, one.database) for one in found} == {("database.dsn", "d")}


@pytest.mark.parametrize(
    ("written", "port"),
    [("", 443), (":", 443), (":0", 0), (":65535", 65535), (":65536", 443), (":" + "0" * 99 + "80", 80), (":" + "9" * 5000, 443),
     (":8x", 443), (":-1", 443), (":٣", 443)],
)  # fmt: skip
def test_a_port_is_a_number_that_there_is(written: str, port: int) -> None:
    for host in ("name", "[::1]"):
        (found,) = targets_of("url", f"https://{host}{written}/")
        assert (found.host, found.port) == (host.strip("[]"), port)
