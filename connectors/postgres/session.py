"""Opens a session with what the credential says, and nothing else: no variable of this process and no file of
its user is asked.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

import asyncpg

from connectors.kit.tls import tls_context
from gateway.model.dsn import Dsn

if TYPE_CHECKING:
    from pathlib import Path

    Session = asyncpg.Connection[asyncpg.Record]


def tls_of(address: Dsn, ca_file: Path | None) -> ssl.SSLContext | None:
    """What `sslmode` asks for; None without TLS. Raises BadConfiguration for a `ca_file` that cannot be used."""
    if address.sslmode == "disable":
        return None
    context = tls_context(ca_file=ca_file)
    context.check_hostname = address.sslmode == "verify-full"
    if address.sslmode in ("prefer", "require"):
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["postgresql"])
    return context


async def open_session(
    address: Dsn, tls: ssl.SSLContext | None, _dsn: str | None = None, **arguments: Any
) -> Session:
    """As `asyncpg.connect`, which a pool calls with `arguments`.

    Every parameter is said, since the driver looks into PG* variables, a password file, a service file and
    ~/.postgresql for each that is not. With `sslmode=prefer` a server that takes no TLS is called without.
    """
    said = {
        "host": address.host,
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
        return await asyncpg.connect(ssl=tls or False, **said)
    except (OSError, asyncpg.InvalidAuthorizationSpecificationError) as error:
        # a password that was refused is not sent again, and in clear at that
        if address.sslmode != "prefer" or not _speaks_of_tls(error):
            raise
    return await asyncpg.connect(ssl=False, **said)


def _speaks_of_tls(error: Exception) -> bool:
    match error:
        case asyncpg.InvalidPasswordError() | asyncio.TimeoutError() | ConnectionRefusedError():
            return False
        case asyncpg.InvalidAuthorizationSpecificationError() | ssl.SSLError() | ConnectionResetError():
            return True
        case _:
            return type(error) is ConnectionError  # so the driver says that TLS was refused
