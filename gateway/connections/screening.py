"""Where what a customer gives leads, judged when it is given, and the rule for each call later.

What is refused here would be refused at the first call: the person who gives it is told at once. What a name
means then is judged again at each connection that is opened, so nothing here has to be trusted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice

from gateway import zones
from gateway.model.access import Origin
from gateway.model.address import (
    ANYWHERE,
    OWN_DATABASE,
    AddressRefused,
    Reach,
    Target,
    own_database,
    same_database,
    targets,
)
from gateway.model.errors import BadConfiguration, RequestRefused
from gateway.settings import Settings
from gateway.store.connections import StoredConnection

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

RESOLVE_SECONDS = 3.0
MAX_TARGETS = 16


def reach_of(settings: Settings, customer: str, origin: Origin) -> Reach:
    """Which addresses what this customer has, given by `origin`, may lead to."""
    if origin is Origin.TRUSTED:
        return ANYWHERE
    return Reach(
        networks=settings.egress.allow + settings.egress.customers.get(customer, ()),
        own_database=own_database(settings.database.dsn.get_secret_value()),
    )


class Screening:
    """Judges what is given. `resolve` gives the addresses of a name, or raises OSError."""

    def __init__(self, settings: Settings, resolve: Resolve) -> None:
        self._settings = settings
        self._resolve = resolve

    async def check(self, customer: str, origin: Origin, values: Mapping[str, object], *, what: str) -> None:
        """Raises RequestRefused for an address that leads where it may not. A name that is not known now is
        judged when it is called.
        """
        if origin is Origin.TRUSTED:
            return
        reach = reach_of(self._settings, customer, origin)
        found = list(islice(targets(values), MAX_TARGETS))
        own = list(zip(reach.own_database, await self._resolved(reach.own_database), strict=True))
        for target, addresses in zip(found, await self._resolved(found), strict=True):
            refused = None
            if addresses and not any(reach.covers(address) for address in addresses):
                refused = str(AddressRefused(target.host))
            elif any(same_database(target, addresses, place, at) for place, at in own):
                refused = OWN_DATABASE
            if refused is not None:
                raise RequestRefused("request.invalid", f"{what}.{target.setting}: {refused}")

    async def _resolved(self, found: Sequence[Target]) -> list[Sequence[str]]:
        return list(await asyncio.gather(*(self._addresses(target) for target in found)))

    async def _addresses(self, target: Target) -> Sequence[str]:
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                return await self._resolve(target.host, target.port)
        except (OSError, TimeoutError):
            return ()


def check_zones(held: StoredConnection) -> None:
    """Raises BadConfiguration where windows cannot be cut: a zone that the configuration was checked with may
    be missing after a restart elsewhere.
    """
    for meter in held.meters:
        name = meter.get("zone")
        if isinstance(name, str) and zones.zone(name) is None:
            raise BadConfiguration(
                f"meter {meter.get('meter')!r}: this machine does not know the time zone {name!r}: bring its"
                " time zone database (the package tzdata) up to date and restart, or change the meter's zone"
            )
