"""The scheduler's `Work` for streams of records from the systems and of alerts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from gateway import clock
from gateway.bulkhead import Fault
from gateway.model.errors import StoreError
from gateway.store.pool import Database
from gateway.sync.link import ServedConnection
from gateway.sync.schedule import Claimed, ClaimT

ASK_AGAIN_SECONDS = 30.0
"""After so long it is asked again which connections have streams."""

RunClaimT_contra = TypeVar("RunClaimT_contra", bound=Claimed, contravariant=True)


class Leases(Protocol[ClaimT]):
    """The leases of one kind of stream, as a module of `gateway.store` has them. Each function raises
    StoreError.
    """

    async def claim(
        self,
        database: Database,
        owner: str,
        lease_seconds: float,
        connections: Sequence[str],
        limit: int,
        *,
        in_hand: Collection[str],
    ) -> Sequence[ClaimT]:
        """Takes up to `limit` due streams of these connections; two replicas never get the same one."""
        ...

    async def seconds_to_next(self, database: Database, connections: Sequence[str]) -> float | None:
        """Until one of these can be claimed; None where none waits."""
        ...

    async def renew(self, database: Database, claim: ClaimT, lease_seconds: float) -> None:
        """Raises LeaseLost."""
        ...

    async def with_streams(self, database: Database, connections: Sequence[str]) -> Sequence[str]:
        """Which of these connections have a stream at all."""
        ...


class Runs(Protocol[RunClaimT_contra]):
    """Runs what is claimed."""

    async def run(self, claim: RunClaimT_contra, link: ServedConnection) -> None:
        """One run, with the record of how it ended."""
        ...

    async def crashed(self, claim: RunClaimT_contra, link: ServedConnection, fault: Fault) -> None:
        """Schedules a run that ended in a fault of our own."""
        ...


class LeasedWork(Generic[ClaimT]):
    """A `Work` by leases. `owner`: the replica as leases name it; `most`: streams in hand at once."""

    def __init__(
        self,
        database: Database,
        leases: Leases[ClaimT],
        runner: Runs[ClaimT],
        *,
        lease_seconds: float,
        owner: str,
        most: int | None = None,
    ) -> None:
        self._database = database
        self._leases = leases
        self._lease_seconds = lease_seconds
        self._owner = owner
        self._most = most
        self._with_streams: list[str] = []
        self._asked_monotonic: float | None = None
        self.run, self.crashed = runner.run, runner.crashed

    def serve(self, links: Mapping[str, ServedConnection]) -> None:  # noqa: ARG002
        """The next claim asks which of them have streams."""
        self._asked_monotonic = None

    async def claim(
        self,
        links: Mapping[str, ServedConnection],
        limit: int,
        *,
        in_hand: Sequence[str],
        has_ended: bool,  # noqa: ARG002
        without: Collection[str],
    ) -> Sequence[ClaimT]:
        """As `Work`."""
        free = limit if self._most is None else min(limit, self._most - len(in_hand))
        if free <= 0:
            return []
        # Most connections have no such stream, and the database should not be asked about thousands of them
        # each second. Streams begin and end only with changes of a connection's link, which call `serve`. The
        # time is noted before the question, so that a call of `serve` during the question leads to another
        # one.
        if self._asked_monotonic is None or clock.monotonic() >= self._asked_monotonic + ASK_AGAIN_SECONDS:
            self._asked_monotonic = clock.monotonic()
            try:
                self._with_streams = list(await self._leases.with_streams(self._database, list(links)))
            except StoreError:
                self._asked_monotonic = None
                raise
        left_out = set(without)
        streams = (
            [name for name in self._with_streams if name not in left_out] if left_out else self._with_streams
        )
        if not streams:
            return []
        return await self._leases.claim(
            self._database, self._owner, self._lease_seconds, streams, free, in_hand=in_hand
        )

    async def seconds_to_next(self, links: Mapping[str, ServedConnection]) -> float | None:  # noqa: ARG002
        """As `Work`."""
        if not self._with_streams:
            return None
        return await self._leases.seconds_to_next(self._database, self._with_streams)

    async def renew(self, claim: ClaimT) -> None:
        """As `Work`."""
        await self._leases.renew(self._database, claim, self._lease_seconds)
