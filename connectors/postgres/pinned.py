"""Where the session of a customer's DSN may lead: to addresses within its reach, and never to a database of a
Fieldgate.

The driver is given addresses, so a name cannot change its meaning between the judgement and the connection;
certificates are still checked against the name.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from connectors.kit.egress import addresses, look_up
from gateway.model.address import OWN_DATABASE, AddressRefused, Reach, Target, same_database
from gateway.model.dsn import Dsn
from gateway.model.errors import BadConfiguration

if TYPE_CHECKING:
    import asyncpg

# The catalogue is open to every role, so this finds the gateway's database behind whatever name or proxy.
_IS_OURS = """
select count(distinct relname) = 4 from pg_catalog.pg_class
where relkind in ('r', 'p') and relname in ('connection_audit', 'credential', 'due_window', 'telemetry')
"""


class NamedContext(ssl.SSLContext):
    """Checks, and asks for, the name although the driver connects to an address."""

    name: str = ""

    def wrap_bio(self, *given: Any, **named: Any) -> ssl.SSLObject:  # the names are the ssl module's
        """As the driver asks, under our name."""
        return super().wrap_bio(*given[:3], **{**named, "server_hostname": self.name})


async def hosts_within(address: Dsn, reach: Reach) -> list[str]:
    """What the driver is given: the addresses of the host, each judged. Raises BadConfiguration for one out
    of reach and for the gateway's own database.
    """
    if reach.everywhere:
        if not address.host.startswith("/"):
            # the driver asks by threads that all of the process share: a name that hangs keeps one of ours
            await look_up(address.host, address.port)
        return [address.host]
    target = Target(
        setting="credentials.dsn", host=address.host, port=address.port, database=address.database
    )
    try:
        found = list(await addresses(address.host, address.port, reach))
        for place in reach.own_database:
            if same_database(target, found, place, await look_up(place.host, place.port)):
                raise BadConfiguration(f"credentials.dsn: {OWN_DATABASE}")
    except AddressRefused as error:
        raise BadConfiguration(f"credentials.dsn: {error}") from None
    return found


async def check_not_ours(session: asyncpg.Connection[asyncpg.Record], reach: Reach) -> None:
    """Closes the session and raises BadConfiguration where it reached the gateway's own database by another
    way.
    """
    if not reach.everywhere and await session.fetchval(_IS_OURS):
        session.terminate()
        raise BadConfiguration(f"credentials.dsn: {OWN_DATABASE}")
