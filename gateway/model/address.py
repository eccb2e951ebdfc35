"""Which addresses a stranger may make us call: public ones only. Pure.

Source: the IANA special-purpose address registries for IPv4 and IPv6.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_NOT_PUBLIC_4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24",
        "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
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
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address):
        inner = parsed.ipv4_mapped or (
            IPv4Address(int(parsed) & 0xFFFFFFFF) if parsed in _TRANSLATED else None
        )
        if inner is None:
            return (
                parsed.scope_id is None
                and parsed in _GLOBAL_UNICAST
                and not any(parsed in network for network in _NOT_PUBLIC_6)
            )
        parsed = inner
    return not any(parsed in network for network in _NOT_PUBLIC_4)
