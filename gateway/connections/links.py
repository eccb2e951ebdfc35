"""The links of this replica: one for each connection that it can serve, built from what PostgreSQL holds, and
built again when that changes.

A link is made in two steps. Either can fail, and is tried again with growing waits. First the link is
**built**: its connector is made of the stored settings and the credential (`gateway.connections.building`).
Then it is **begun**: its meters are stored as those in force, so that runs may compute by them
(`gateway.connections.following`). Only a link that is begun is worked.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import structlog

from gateway import clock
from gateway.connections.building import LinkBuilder
from gateway.model.backoff import full_jitter
from gateway.model.connector import Connector
from gateway.model.errors import BadConfiguration, ConnectorError, SealBroken
from gateway.model.meter import made_of
from gateway.store import connections, credentials
from gateway.store.connections import Configured
from gateway.store.pool import Database
from gateway.store.troubles import Troubles
from gateway.sync.link import ServedConnection

log = structlog.get_logger(__name__)

BUILD_CAP_SECONDS = 60.0

BUILT_TOGETHER = 200
"""Connections whose links are built together. At a start there are thousands, and the first should not wait
for the last.
"""

NOT_BUILT = "put that right, correct the settings, or give the credentials again"

RETIRED_SECONDS = 120.0
"""How long a replaced connector stays open for the runs that use it."""


@dataclass(frozen=True, slots=True)
class _Built:
    configuration: int
    link: ServedConnection | None
    begun: bool = False
    """Whether its meters are in force. Where that failed it is begun again."""
    again_monotonic: float | None = None
    """When (monotonic) it is built or begun again because that failed; None where nothing failed."""
    attempts: int = 0

    @property
    def is_due_again(self) -> bool:
        return self.again_monotonic is not None and self.again_monotonic <= clock.monotonic()


class Links:
    """The links of this replica. `refresh` builds them as the database has them; `get` never asks the
    database. Every `refresh` returns a link that is not begun, until `begun` is called with it.
    """

    def __init__(
        self,
        database: Database,
        builder: LinkBuilder,
        troubles: Troubles,
    ) -> None:
        self._database = database
        self._builder = builder
        self._troubles = troubles
        self._built: dict[str, _Built] = {}
        self._waiting: set[str] = set()
        """Connections that are built or begun again, now or later: few of thousands."""
        self.version = 0
        """Rises with every change that `current` may show."""
        self._refreshing = asyncio.Lock()
        self._retired: list[tuple[float, Connector]] = []

    @property
    def current(self) -> dict[str, ServedConnection]:
        """The links that can be worked: each has a credential that was verified once, and meters in force."""
        return {
            name: built.link for name, built in self._built.items() if built.link is not None and built.begun
        }

    @property
    def count(self) -> int:
        """How many connections there are, with a link or without."""
        return len(self._built)

    def get(self, connection: str) -> ServedConnection | None:
        """The link of a connection; None where it has no verified credential, or cannot be built."""
        built = self._built.get(connection)
        return None if built is None else built.link

    def waiting(self) -> list[str]:
        """The connections that are to be built or begun again now."""
        return [name for name in self._waiting if self._built[name].is_due_again]

    @property
    def has_waiting(self) -> bool:
        """Whether any connection is to be built or begun again, now or later."""
        return bool(self._waiting)

    async def compare(self) -> list[str]:
        """All connections for which `refresh` has something to do. Raises StoreError."""
        wanted = await connections.configurations(self._database)
        gone = [name for name in self._built if name not in wanted]
        return gone + [
            name
            for name, current in wanted.items()
            if self._is_stale(name, current.configuration) or self._to_begin(name, current) is not None
        ]

    async def refresh(self, only: Collection[str]) -> list[ServedConnection]:
        """Builds the links of these connections that were configured anew, and drops those that are gone.
        Returns the links that are to be begun. Raises StoreError; then the next call returns what was built.
        """
        # Under a lock, for a look that succeeded calls this beside the loop: two calls at once would build
        # the same link twice, and close only one of them.
        async with self._refreshing:
            wanted = await connections.configurations(self._database, only)
            for name in [name for name in only if name in self._built and name not in wanted]:
                self._retire(self._built.pop(name).link)
                self._waiting.discard(name)
                self._builder.forget(name)
                self.version += 1
            await self._build_all(
                [name for name, current in wanted.items() if self._is_stale(name, current.configuration)]
            )
            await self._close_retired()
            found = (self._to_begin(name, current) for name, current in wanted.items())
            return [link for link in found if link is not None]

    async def _build_all(self, names: Sequence[str]) -> None:
        if not names:
            return
        found = await connections.read(self._database, names)
        generations = {name: held.generation for name, held in found.items() if held.generation}
        sealed = await credentials.read_some(self._database, generations) if generations else {}
        for name, held in found.items():
            before = self._built.get(name)
            link: ServedConnection | None = None
            begun = False
            wrong: ConnectorError | SealBroken | None = None
            async with self._troubles.contained("build", name) as made:
                try:
                    link = self._builder.build(held.used, sealed[name]) if name in sealed else None
                except (BadConfiguration, SealBroken) as error:
                    wrong = error
                if link is not None:
                    digest = made_of(link.rules, link.connector.capabilities.resolution)
                    begun = (held.meters_of, held.meters_digest) == (held.configuration, digest)
            if wrong is not None:
                await self._say_not_built(name, wrong)
            if made.fault is not None:
                self._retire(link)
                link = None
            self._retire(None if before is None else before.link)
            attempts = before.attempts if before is not None and before.again_monotonic is not None else 0
            self._put(name, _Built(held.configuration, link, begun=begun, attempts=attempts))
            if made.fault is not None:
                self.put_off(name)
            await asyncio.sleep(0)  # thousands are built at a start, and ingest needs the loop meanwhile

    def _to_begin(self, name: str, current: Configured) -> ServedConnection | None:
        built = self._built.get(name)
        if built is None or built.link is None or not current.is_served:
            return None
        if built.begun and current.meters_of == current.configuration == built.configuration:
            return None
        if built.begun:
            built = self._put(name, replace(built, begun=False))
        return built.link if built.again_monotonic is None or built.is_due_again else None

    def begun(self, link: ServedConnection) -> None:
        """Notes that the meters of this link are in force."""
        built = self._built.get(link.connection)
        if built is not None and built.link is link:
            self._put(link.connection, replace(built, begun=True, again_monotonic=None, attempts=0))

    def not_begun(self, link: ServedConnection) -> None:
        """Notes that to begin this link failed: it is tried again, with growing waits. The link stays, for
        probes.
        """
        built = self._built.get(link.connection)
        if built is not None and built.link is link:
            self._put(link.connection, self._later(replace(built, begun=False)))

    def put_off(self, connection: str) -> None:
        """Drops the link of a connection, for a fault of ours: it is built again, with growing waits."""
        built = self._built[connection]
        self._retire(built.link)
        self._put(connection, self._later(replace(built, link=None, begun=False)))

    def _put(self, name: str, built: _Built) -> _Built:
        self._built[name] = built
        if built.again_monotonic is None:
            self._waiting.discard(name)
        else:
            self._waiting.add(name)
        self.version += 1
        return built

    @staticmethod
    def _later(built: _Built) -> _Built:
        attempts = built.attempts + 1
        wait = full_jitter(attempts, rand=random.random(), cap_seconds=BUILD_CAP_SECONDS)
        return replace(built, again_monotonic=clock.monotonic() + wait, attempts=attempts)

    def _is_stale(self, name: str, configuration: int) -> bool:
        built = self._built.get(name)
        if built is None or built.configuration != configuration:
            return True
        return built.link is None and built.is_due_again

    async def close(self) -> None:
        """Closes every connector."""
        for built in self._built.values():
            self._retire(built.link)
        self._built.clear()
        self._waiting.clear()
        await asyncio.gather(*(connector.close() for _, connector in self._retired))

    async def _say_not_built(self, name: str, error: ConnectorError | SealBroken) -> None:
        """Logs the error and shows it with the connection, whose state does not say so: nothing is called."""
        log.error("connection.link_not_built", connection=name, detail=str(error), advice=NOT_BUILT)
        await self._troubles.note(name, "build", f"{error}. Nothing is sent or read meanwhile: {NOT_BUILT}")

    def _retire(self, link: ServedConnection | None) -> None:
        if link is not None:
            self._retired.append((clock.monotonic() + RETIRED_SECONDS, link.connector))

    async def _close_retired(self) -> None:
        over = [connector for until, connector in self._retired if until <= clock.monotonic()]
        self._retired = [item for item in self._retired if item[0] > clock.monotonic()]
        for connector in over:
            await connector.close()
