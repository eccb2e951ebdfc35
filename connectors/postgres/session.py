"""Opens a session with what the credential says, and nothing else: no variable of this process and no file of
its user is asked.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import asyncpg

from connectors.kit.tls import authority, tls_context
from connectors.postgres.bounded import bounding
from connectors.postgres.pinned import NamedContext, check_not_ours, hosts_within
from gateway.model.address import Reach
from gateway.model.dsn import Dsn

if TYPE_CHECKING:
    from pathlib import Path

    Session = asyncpg.Connection[asyncpg.Record]


def tls_of(address: Dsn, ca_file: Path | None, reach: Reach) -> ssl.SSLContext | None:
    """What `sslmode` asks for; None without TLS. Raises BadConfiguration for a
    `ca_file` that cannot be used.
    """
    if address.sslmode == "disable":
        return None
    if reach.everywhere:
        context = tls_context(ca_file=ca_file)
    else:
        context = NamedContext(ssl.PROTOCOL_TLS_CLIENT)
        context.name = address.host
        if ca_file is None:
            context.load_default_certs()
        else:
            authority(ca_file, context)
    context.check_hostname = address.sslmode == "verify-full"
    if address.sslmode in ("prefer", "require"):
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["postgresql"])
    return context


async def open_session(
    address: Dsn,
    tls: ssl.SSLContext | None,
    reach: Reach,
    _dsn: str | None = None,
    *,
    timeout: float,
    **arguments: Any,
) -> Session:
    """As `asyncpg.connect`, which a pool calls with `arguments`; to addresses within `reach` only, each with
    its share of `timeout` in seconds. Raises BadConfiguration for others, beside what the driver raises.

    Every parameter is said, since the driver looks into PG* variables, a password file, a service file and
    ~/.postgresql for each that is not. With `sslmode=prefer` a server that takes no TLS is called
    without, unless a customer gave the DSN: what leads out of the house is not sent in clear by chance.
    """
    hosts = await hosts_within(address, reach)
    said = {"timeout": timeout / len(hosts), **arguments}
    for host in hosts[:-1]:
        # The driver asks one after the other within one time-out: an address that nothing answers at would
        # use up the time of all.
        with suppress(OSError):
            return await _open(host, address, tls, reach, said)
    return await _open(hosts[-1], address, tls, reach, said)


async def _open(
    host: str, address: Dsn, tls: ssl.SSLContext | None, reach: Reach, arguments: dict[str, Any]
) -> Session:
    said = {
        "host": host,
        "port": address.port,
        "user": address.user,
        "password": address.password,
        "database": address.database,
        "direct_tls": False,
        "target_session_attrs": "any",
        "krbsrvname": "postgres",
        "gsslib": "gssapi",
        **arguments,
    }
    try:
        with bounding():
            session: Session = await asyncpg.connect(ssl=tls or False, **said)
    except (OSError, asyncpg.InvalidAuthorizationSpecificationError) as error:
        # a password that was refused is not sent again, and in clear at that
        if address.sslmode != "prefer" or not reach.everywhere or not _speaks_of_tls(error):
            raise
        with bounding():
            session = await asyncpg.connect(ssl=False, **said)
    await check_not_ours(session, reach)
    return session


def _speaks_of_tls(error: Exception) -> bool:
    match error:
        case asyncpg.InvalidPasswordError() | asyncio.TimeoutError() | ConnectionRefusedError():
            return False
        case asyncpg.InvalidAuthorizationSpecificationError() | ssl.SSLError() | ConnectionResetError():
            return True
        case _:
            return type(error) is ConnectionError  # so the driver says that TLS was refused
