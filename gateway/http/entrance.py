"""Who comes in and how: the client's address, the Host that it asked for, failed tokens and links, and
whether metrics need a token. What is decided here follows from `http.*` alone; it reads no database.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections import OrderedDict
from functools import lru_cache
from urllib.parse import urlsplit

import structlog
from starlette.types import Scope

from gateway import clock, metrics
from gateway.model.attempts import Attempts
from gateway.model.errors import RequestRefused
from gateway.settings import HttpSettings

log = structlog.get_logger(__name__)

MAX_FAILURES = 20
WINDOW_SECONDS = 60.0
MAX_KNOWN_SECRETS = 1_000
MAX_KNOWN_HOSTS = 100

_PASSED_ON = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via"})

UNCHECKED_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""Probes of orchestrators and Prometheus name the gateway as they reach it; these pages show nothing of a
customer that a page of another site could read.
"""


class Entrance:
    """One for a process. `http` says what is allowed."""

    def __init__(self, http: HttpSettings) -> None:
        self._proxies = http.trusted_proxies
        public = urlsplit(http.public_url)
        self._hosts = {"localhost", *(name.lower() for name in http.allowed_hosts)}
        for address in (public.netloc, http.listen):
            self._hosts.add(_name(address))
        self._metrics = http.metrics
        self._is_of_this_machine = _is_loopback(_name(http.listen))
        self.is_https = public.scheme == "https"
        self._attempts = Attempts(limit=MAX_FAILURES, seconds=WINDOW_SECONDS)
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self.is_our_host = lru_cache(maxsize=MAX_KNOWN_HOSTS)(self._decide_host)
        """Of one `Host` header. A client asks for the same host each time, and parsing it costs more than all
        else here.
        """

    def address(self, scope: Scope) -> str:
        """The client's. A header is believed only from `http.trusted_proxies`, and only what they added: the
        last address of `X-Forwarded-For` that is no proxy of ours.
        """
        address = _plain((scope.get("client") or ("unknown", 0))[0])
        if not self._is_proxy(address):
            return address
        said = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        for part in reversed(b",".join(said).decode("latin-1").split(",")):
            candidate = _plain(part.strip())
            try:
                ipaddress.ip_address(candidate)
            except ValueError:
                return address
            address = candidate
            if not self._is_proxy(candidate):
                return candidate
        return address

    def metrics_need_token(self, scope: Scope) -> bool:
        """Whether who asks for metrics has to show a token. A loopback address is reached by this machine,
        and by everybody for whom a proxy on it asks: that says for whom, or asks for the public name.
        """
        if self._metrics != "auto":
            return self._metrics == "token"
        headers = dict(scope["headers"])
        return (
            not self._is_of_this_machine
            or not _PASSED_ON.isdisjoint(headers)
            or not _is_loopback(_name(headers.get(b"host", b"").decode("latin-1")))
        )

    def is_known_host(self, scope: Scope) -> bool:
        """Whether the request asks for us. A page of another site that has its name lead here (DNS rebinding)
        asks for that name; an address is nobody's name, so literal addresses pass.
        """
        given = [value for name, value in scope["headers"] if name == b"host"]
        if scope["path"] in UNCHECKED_PATHS:
            return len(given) <= 1  # haproxy's checks are of HTTP/1.0, which needs none
        return len(given) == 1 and self.is_our_host(given[0])

    def _decide_host(self, given: bytes) -> bool:
        name = _name(given.decode("latin-1"))
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._hosts
        return True

    def check_attempts(self, address: str, secret: str) -> None:
        """Raises RequestRefused("auth.too_many_attempts") when this address has failed too often. A secret
        that was good before passes: who shares an address (a proxy) with an attacker is not locked out by it.
        """
        wait = self._attempts.seconds_to_wait(origin_of(address), clock.monotonic())
        if wait is not None and not self.is_known(secret):
            metrics.HTTP_REFUSED.labels("attempts").inc()
            raise RequestRefused(
                "auth.too_many_attempts",
                f"There were {MAX_FAILURES} failed attempts from this address within a minute. Try again"
                " later.",
                retry_after=wait,
            )

    def is_known(self, secret: str) -> bool:
        """Whether it was good when it was last looked up."""
        return _digest(secret) in self._known

    def succeeded(self, secret: str) -> None:
        """Remembers a secret (its digest) that was good."""
        key = _digest(secret)
        self._known[key] = None
        self._known.move_to_end(key)
        if len(self._known) > MAX_KNOWN_SECRETS:
            self._known.popitem(last=False)

    def failed(self, address: str, secret: str, *, kind: str) -> None:
        """Notes an unknown token, login link or reconnect link: counted, and in the log at the first of a
        minute and when the address has to wait.
        """
        self._known.pop(_digest(secret), None)
        count = self._attempts.failed(origin_of(address), clock.monotonic())
        metrics.HTTP_REFUSED.labels(kind).inc()
        if count == 1:
            log.warning("http.access_refused", kind=kind, address=address)
        elif count == MAX_FAILURES:
            log.warning("http.access_blocked", kind=kind, address=address, seconds=WINDOW_SECONDS)

    def _is_proxy(self, address: str) -> bool:
        if not self._proxies:
            return False
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._proxies)


def origin_of(address: str) -> str:
    """What counts as one client: an address, of IPv6 its /64, since one machine may have all of it."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return _plain(str(parsed))


def _plain(address: str) -> str:
    """An IPv4 address as such where a socket that takes both kinds wrote it as `::ffff:10.0.0.5`."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return address if mapped is None else str(mapped)


def _name(host: str) -> str:
    """The host without its port, in small letters: `[::1]:8080` is `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower().rstrip(".")


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
