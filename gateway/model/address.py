"""Which addresses a stranger may make us call: public ones, and networks that the operator allows. Pure.

Source: the IANA special-purpose address registries for IPv4 and IPv6.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import unquote

_NOT_PUBLIC_4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24",
        "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/3",
    )
)  # fmt: skip
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    IPv6Network(network)
    for network in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)
_TRANSLATED = IPv6Network("64:ff9b::/96")  # an IPv4 address behind NAT64


_LISTEN = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:/@\s]+)):([0-9]{1,5})")


def to_listen(text: str) -> tuple[str, int]:
    """Host and port of an address to listen on; port 0 is any. Raises ValueError."""
    match = _LISTEN.fullmatch(text)
    if match is None or int(match[3]) > 65535:
        raise ValueError(f"{text!r} is no address; expected host:port, such as 127.0.0.1:8080 or [::1]:8080")
    return match[1] or match[2], int(match[3])


def is_public(address: str) -> bool:
    """Whether it is an address of the public internet. What only wraps an IPv4 address (mapped, translated)
    is judged by that; tunnels are not public.
    """
    parsed = _unwrapped(address)
    if isinstance(parsed, IPv6Address):
        return parsed in _GLOBAL_UNICAST and not any(parsed in network for network in _NOT_PUBLIC_6)
    return parsed is not None and not any(parsed in network for network in _NOT_PUBLIC_4)


def is_address(text: str) -> bool:
    """Whether it is an address and no name that leads to one."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


Network = IPv4Network | IPv6Network


class AddressRefused(Exception):
    """A name leads to no address that may be called. The text repeats the name and no address, since whoever
    reads it may not know what lies behind.
    """

    def __init__(self, host: str) -> None:
        super().__init__(
            f"{host[:100]!r} leads to no address that may be called: neither the public internet nor a"
            " network that egress.allow of the gateway's configuration names; ask whoever runs the gateway"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a setting leads: the host as it is written, which may be an address in any notation. `database`:
    of a DSN.
    """

    setting: str
    host: str
    port: int
    database: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Which addresses calls may lead to. `everywhere`: whoever runs the gateway said where they go.

    `own_database`: where the gateway's own is; no connection of a customer writes into that.
    """

    everywhere: bool = False
    networks: tuple[Network, ...] = ()
    own_database: tuple[Target, ...] = ()

    def covers(self, address: str) -> bool:
        """Whether this address, as a resolver or a person writes it, may be called."""
        if self.everywhere or is_public(address):
            return True
        parsed = _unwrapped(address)
        return parsed is not None and any(
            parsed.version == network.version and parsed in network for network in self.networks
        )


ANYWHERE = Reach(everywhere=True)
OWN_DATABASE = "this is the gateway's own database: give one of the customer's own"
_LEADS = re.compile(r"(?:^|_)(?:url|uri|dsn|host|endpoint)s?$", re.IGNORECASE)
_PORTS = {"https": 443, "http": 80, "postgresql": 5432, "postgres": 5432}
_DATABASES = ("postgresql", "postgres")


def targets(values: Mapping[str, object], within: str = "") -> Iterator[Target]:
    """Where the settings or credentials of a connection lead: every host of every value whose name says that
    it is an address. What cannot be read is left to whoever connects.
    """
    for name, value in values.items():
        path = f"{within}.{name}" if within else name
        if isinstance(value, Mapping):
            yield from targets(value, path)
        for text in value if isinstance(value, list | tuple) else (value,):
            if isinstance(text, Mapping):
                yield from targets(text, path)
            elif isinstance(text, str) and _LEADS.search(name):
                yield from targets_of(path, text)


def targets_of(setting: str, text: str) -> Iterator[Target]:
    """The hosts of one address or DSN; a DSN may have several, also as parameters."""
    scheme, mark, rest = text.strip().partition("://")
    if not mark:
        scheme, rest = "", text.strip()
    scheme = scheme.lower()
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    query = dict(_pair(part) for part in rest.partition("?")[2].split("&"))
    database = None
    if scheme in _DATABASES:
        named = unquote(rest.partition("?")[0].partition("/")[2])
        user = unquote(authority.rpartition("@")[0].partition(":")[0])
        database = named or query.get("dbname") or query.get("database") or query.get("user") or user
    default = _PORTS.get(scheme, 443)
    hosts = [(written, default) for written in authority.rpartition("@")[2].split(",")]
    if scheme in _DATABASES:
        hosts += _hosts_of(query, default)
    for written, usual in hosts:
        host, port = _host_and_port(unquote(written), usual)
        if host:
            yield Target(setting=setting, host=host, port=port, database=database)


def own_database(dsn: str) -> tuple[Target, ...]:
    """Where the gateway's own database is, at each of its hosts; a socket is on this machine."""
    found = tuple(targets_of("database.dsn", dsn))
    if not found:  # the driver looks for a socket
        found = tuple(targets_of("database.dsn", f"{dsn}{'&' if '?' in dsn else '?'}host=localhost"))
    return tuple(
        replace(target, host="localhost") if target.host.startswith(("/", "@")) else target
        for target in found
    )


def same_database(
    one: Target, addresses: Iterable[str], other: Target, other_addresses: Iterable[str]
) -> bool:
    """Whether two places, whose hosts lead to these addresses, are one database."""
    if one.port != other.port or one.database != other.database:
        return False
    others = list(other_addresses)
    return any(_same_place(first, second) for first in addresses for second in others)


def _same_place(one: str, other: str) -> bool:
    """Equal, or both this machine itself."""
    first, second = _unwrapped(one), _unwrapped(other)
    if first is None or second is None:
        return False
    return first == second or (first.is_loopback and second.is_loopback)


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return unquote(name).lower(), unquote(value)


def _hosts_of(query: Mapping[str, str], default: int) -> Iterator[tuple[str, int]]:
    """The hosts that are parameters of a DSN, each with its port: one for all, or one for each."""
    ports = [_port(text) or default for text in query.get("port", "").split(",")]
    for name in ("host", "hostaddr"):
        for place, host in enumerate(query.get(name, "").split(",")):
            yield host, ports[place] if place < len(ports) else ports[0]


def _host_and_port(written: str, default: int) -> tuple[str, int]:
    if written.startswith("["):
        host, _, rest = written[1:].partition("]")
        port = rest.removeprefix(":")
    elif written.count(":") > 1:
        host, port = written, ""
    else:
        host, _, port = written.partition(":")
    number = _port(port)
    return host, default if number is None else number


def _port(text: str) -> int | None:
    digits = text.lstrip("0")  # a number of any length must be judged without being made
    if text.isascii() and text.isdigit() and len(digits) <= 5 and int(digits or "0") <= 65535:
        return int(digits or "0")
    return None


def _unwrapped(address: str) -> IPv4Address | IPv6Address | None:
    """The address, or the IPv4 address that it wraps; None for what is none, or has a zone."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    if isinstance(parsed, IPv4Address):
        return parsed
    if parsed.scope_id is not None:
        return None
    if parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return IPv4Address(int(parsed) & 0xFFFFFFFF) if parsed in _TRANSLATED else parsed
