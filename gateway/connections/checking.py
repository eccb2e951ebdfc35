"""What somebody gives of a connection is checked. Many meters take seconds: those are checked beside the
loop, one connection after the other, and everybody else is answered meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from gateway.configuration import DeclaredConnection, Faults, check
from gateway.connections.links import ConnectedSystem
from gateway.model.errors import RequestRefused
from gateway.settings import ConnectionSettings, Settings

MANY = 200
_beside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checking")


async def checked(
    wanted: ConnectionSettings,
    *,
    settings: Settings,
    systems: Mapping[str, ConnectedSystem],
    credentials: bool,
) -> DeclaredConnection:
    """As `gateway.configuration.check`. Raises RequestRefused with the Faults as its cause."""
    work = partial(check, wanted, settings=settings, systems=systems, credentials=credentials)
    try:
        if len(wanted.meters) <= MANY:
            return work()
        return await asyncio.get_running_loop().run_in_executor(_beside, work)
    except Faults as faults:
        raise RequestRefused("request.invalid", str(faults), connection=wanted.id) from faults
