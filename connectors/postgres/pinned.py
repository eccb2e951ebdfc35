"""Sessions of a connection whose DSN a customer gave: to addresses within its reach only, over TLS unless the
DSN says otherwise, and never to a database of a Fieldgate.

The driver is given addresses, so a name cannot change its meaning between the judgement and the connection;
certificates are still checked against the name. Nothing of the gateway's own environment or files is used.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import asyncpg

from connectors.kit.egress import addresses, look_up
from gateway.model.address import OWN_DATABASE, AddressRefused, Reach, same_database, targets_of
from gateway.model.errors import BadConfiguration

if TYPE_CHECKING:
    from asyncpg import Connection, Record

_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_PARAMETERS = frozenset({"sslmode", "target_session_attrs", "application_name"})
_ADVICE = "expected postgresql://role:password@host:5432/database?sslmode=verify-full"
# The catalogue is open to every role, so this finds the gateway's database behind whatever name or proxy.
_IS_OURS = """
select count(distinct relname) = 4 from pg_catalog.pg_class
where relkind in ('r', 'p') and relname in ('connection_audit', 'credential', 'due_window', 'telemetry')
"""


class _Named(ssl.SSLContext):
    """Checks, and asks for, the name although the driver connects to an address."""

    name: str = ""

    def wrap_bio(self, *given: Any, **named: Any) -> ssl.SSLObject:  # the names are the ssl module's
        return super().wrap_bio(*given[:3], **{**named, "server_hostname": self.name})


def connect_within(dsn: str, reach: Reach) -> Callable[..., Awaitable[Connection[Record]]]:
    """What a pool opens its sessions with. Raises BadConfiguration for a DSN that a customer may not give; the
    sessions raise it for addresses out of reach, beside what the driver raises.
    """
    fixed, mode = _fixed(dsn)

    async def connect(*_: object, **given: Any) -> Connection[Record]:
        last: Exception | None = None
        for target in targets_of("credentials.dsn", dsn):
            try:
                found = await addresses(target.host, target.port, reach)
                for place in reach.own_database:
                    if same_database(target, found, place, await look_up(place.host, place.port)):
                        raise BadConfiguration(f"credentials.dsn: {OWN_DATABASE}")
                places = {"host": list(found), "port": [target.port] * len(found)}
                session: Connection[Record] = await asyncpg.connect(
                    **{**given, **fixed, **places, "ssl": _tls(mode, target.host)}
                )
            except AddressRefused as error:
                raise BadConfiguration(f"credentials.dsn: {error}") from None
            except OSError as error:
                last = error
                continue
            if await session.fetchval(_IS_OURS):
                session.terminate()
                raise BadConfiguration(f"credentials.dsn: {OWN_DATABASE}")
            return session
        raise last or BadConfiguration(f"credentials.dsn names no host: {_ADVICE}")

    return connect


def _fixed(dsn: str) -> tuple[dict[str, str], str]:
    """Everything but the place, and the mode of TLS. A fault repeats no value: there may be a password in it."""
    try:
        parts = urlsplit(dsn)
    except ValueError:
        raise BadConfiguration(f"credentials.dsn cannot be read: {_ADVICE}") from None
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if others := sorted(query.keys() - _PARAMETERS):
        raise BadConfiguration(
            f"credentials.dsn: the parameters {', '.join(others)[:100]} cannot be used here; only {', '.join(sorted(_PARAMETERS))}"
        )
    user, password, database = parts.username, parts.password, unquote(parts.path.removeprefix("/"))
    if not user or not password or not database or not parts.netloc.rpartition("@")[2]:
        raise BadConfiguration(f"credentials.dsn needs role, password, host and database: {_ADVICE}")
    fixed = {"user": unquote(user), "password": unquote(password), "database": database}
    if "target_session_attrs" in query:
        fixed["target_session_attrs"] = query["target_session_attrs"]
    mode = query.get("sslmode", "require")
    if mode not in _MODES:
        raise BadConfiguration(f"credentials.dsn: sslmode is one of {', '.join(_MODES)}")
    return fixed, mode


def _tls(mode: str, host: str) -> ssl.SSLContext | bool:
    if mode == "disable":
        return False
    context = _Named(ssl.PROTOCOL_TLS_CLIENT)
    context.name = host
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = mode == "verify-full"
    context.verify_mode = ssl.CERT_REQUIRED if mode.startswith("verify") else ssl.CERT_NONE
    if context.verify_mode is ssl.CERT_REQUIRED:
        context.load_default_certs()
    return context
