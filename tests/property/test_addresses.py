"""Which addresses are public, over all of them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from gateway.model.address import is_public

ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).map(str)


@given(ipv4 | ipv6)
def test_nothing_is_public_that_the_standard_library_calls_special(address: str) -> None:
    parsed: IPv4Address | IPv6Address = IPv4Address(address) if "." in address else IPv6Address(address)
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped  # the library calls every one of them private
    if str(parsed).startswith("64:ff9b::"):
        return  # and these reserved: the test below is theirs
    if (
        parsed.is_private
        or parsed.is_loopback
        or parsed.is_link_local
        or parsed.is_multicast
        or parsed.is_reserved
        or parsed.is_unspecified
    ):
        assert not is_public(address)


@given(ipv4)
def test_a_wrapped_address_is_what_it_wraps(address: str) -> None:
    number = int(IPv4Address(address))
    for prefix in (0xFFFF << 32, 0x64FF9B << 96):
        assert is_public(str(IPv6Address(prefix | number))) == is_public(address)


@given(ipv4)
def test_a_tunnel_to_it_is_never_public(address: str) -> None:
    number = int(IPv4Address(address))
    for tunnel in (0x2002 << 112 | number << 80, 0x20010000 << 96 | number, number):
        assert not is_public(str(IPv6Address(tunnel)))


@given(st.text(max_size=40))
def test_no_text_raises(text: str) -> None:
    is_public(text)
