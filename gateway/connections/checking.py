"""Checking: what a caller may give, before anything is stored. Everything that is wrong with it is told as a
refusal that the caller can act on.

Three things are looked at: whether the settings, meters and credentials fit the system and each other, as for
a declared file; whether this caller may name what they name (files of this machine, another host); and
whether their addresses lead where this caller's calls may go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Unpack
from weakref import WeakValueDictionary

from gateway.configuration import DeclaredConnection, Faults, check
from gateway.connections.building import ConnectedSystem
from gateway.connections.given import (
    KeptSettings,
    configuration_of,
    refuse_files,
    refuse_moved,
)
from gateway.connections.giving import end_of
from gateway.connections.screening import Screening
from gateway.model.access import Caller, Origin
from gateway.model.errors import RequestRefused
from gateway.settings import (
    ConnectionPatch,
    ConnectionSettings,
    ConnectionSyncSettings,
    CredentialSettings,
    Settings,
)
from gateway.store.connections import Configuration, StoredConnection

MANY = 200
"""Meters. More of them take seconds to check: that is done beside the loop, one connection after the other
and of a customer one at a time, so that nobody waits for more than one of another's.
"""

_beside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checking")


class Checking:
    """Each of these raises RequestRefused. `settings`: those of now, for a reload changes the customers."""

    def __init__(
        self, systems: Mapping[str, ConnectedSystem], settings: Settings, screening: Screening
    ) -> None:
        self._systems = systems
        self.settings = settings
        self._screening = screening
        self._large: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By customer: held while a connection with many meters is checked."""

    async def new(
        self, wanted: ConnectionSettings, caller: Caller, *, credentials: bool
    ) -> DeclaredConnection:
        """A connection that is to be made. Where it is faulty, the Faults are the refusal's cause."""
        refuse_files(self._systems.get(wanted.system), wanted.settings, held={})
        declared = await self._fitting(wanted, credentials=credentials)
        await self._screen(wanted.customer, caller, settings=wanted.settings, given=wanted.credentials)
        return declared

    async def changed(self, held: StoredConnection, patch: ConnectionPatch, caller: Caller) -> Configuration:
        """What the patch makes of the connection: each part that it names replaces the one that is held."""
        if patch.settings is not None:
            refuse_files(self._systems.get(held.system), patch.settings, held=held.settings)
        wanted = ConnectionSettings(
            id=held.connection,
            title=held.title if patch.title is None else patch.title,
            customer=held.customer,
            system=held.system,
            hosting=held.hosting if patch.hosting is None else patch.hosting,
            settings=dict(held.settings) if patch.settings is None else patch.settings,
            credentials=patch.credentials or CredentialSettings(),
            sync=patch.sync or ConnectionSyncSettings.model_validate(held.sync),
            meters=patch.meters or (),
            alerts=patch.alerts or (),
        )
        declared = await self._fitting(wanted, credentials=patch.credentials is not None)
        is_trusted = caller.origin is Origin.TRUSTED
        # who gave the settings stays, where somebody else repeats what they are
        anew = patch.settings is not None and (is_trusted or patch.settings != dict(held.settings))
        if patch.credentials is None and not is_trusted:
            refuse_moved(held, wanted)
        await self._screen(
            held.customer, caller, settings=wanted.settings if anew else {}, given=wanted.credentials
        )
        return self.configuration(
            declared,
            managed_by=held.managed_by,
            meters=None if patch.meters is not None else held.meters,
            alerts=None if patch.alerts is not None else held.alerts,
            host=held.host,
            origin=caller.origin if anew else held.origin,
        )

    async def credentials(self, held: StoredConnection, given: CredentialSettings, caller: Caller) -> None:
        """Credentials for a connection that is there."""
        wanted = ConnectionSettings(
            id=held.connection,
            customer=held.customer,
            system=held.system,
            hosting=held.hosting,
            settings=dict(held.settings),
            credentials=given,
        )
        await self._fitting(wanted)
        await self._screen(held.customer, caller, settings={}, given=given)

    def configuration(
        self, declared: DeclaredConnection, *, managed_by: str, **kept: Unpack[KeptSettings]
    ) -> Configuration:
        """As `configuration_of`."""
        system = self._systems[declared.settings.system]
        return configuration_of(declared, system, managed_by=managed_by, **kept)

    async def _fitting(self, wanted: ConnectionSettings, *, credentials: bool = True) -> DeclaredConnection:
        work = partial(check, wanted, settings=self.settings, systems=self._systems, credentials=credentials)
        try:
            if len(wanted.meters) <= MANY:
                declared = work()
            else:
                async with self._large.setdefault(wanted.customer, asyncio.Lock()):
                    declared = await asyncio.get_running_loop().run_in_executor(_beside, work)
        except Faults as faults:
            raise RequestRefused("request.invalid", str(faults), connection=wanted.id) from faults
        if credentials:
            end_of(wanted.credentials)
        return declared

    async def _screen(
        self, customer: str, caller: Caller, *, settings: Mapping[str, object], given: CredentialSettings
    ) -> None:
        await self._screening.check(customer, caller.origin, settings, what="settings")
        await self._screening.check(customer, caller.origin, given.resolved(), what="credentials")
