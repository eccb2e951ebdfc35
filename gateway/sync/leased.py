"""Streams that any replica may take, as a scheduler's work: records from the systems, and alerts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from gateway.bulkhead import Fault
from gateway.store.pool import Database
from gateway.sync.link import Link
from gateway.sync.schedule import Claimed, ClaimT

RunClaimT_contra = TypeVar("RunClaimT_contra", bound=Claimed, contravariant=True)


class Leases(Protocol[ClaimT]):
    """The leases of one kind of stream: a module of `gateway.store`. Each raises StoreError."""

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


class Runs(Protocol[RunClaimT_contra]):
    """Works what is claimed."""

    async def run(self, claim: RunClaimT_contra, link: Link) -> None:
        """One run, with the record of how it ended."""
        ...

    async def crashed(self, claim: RunClaimT_contra, link: Link, fault: Fault) -> None:
        """Schedules a run that ended in a fault of our own."""
        ...


class LeasedWork(Generic[ClaimT]):
    """As the scheduler's `Work`. `owner` names the replica in leases; `most`: streams in hand at once."""

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
        self.run, self.crashed = runner.run, runner.crashed

    def serve(self, links: Mapping[str, Link]) -> None:
        """Nothing to note: a claim is told which they are."""

    async def claim(
        self,
        links: Mapping[str, Link],
        limit: int,
        *,
        in_hand: Sequence[str],
        has_ended: bool,  # noqa: ARG002
    ) -> Sequence[ClaimT]:
        """As `Work`."""
        free = limit if self._most is None else min(limit, self._most - len(in_hand))
        if free <= 0:
            return []
        return await self._leases.claim(
            self._database, self._owner, self._lease_seconds, list(links), free, in_hand=in_hand
        )

    async def seconds_to_next(self, links: Mapping[str, Link]) -> float | None:
        """As `Work`."""
        return await self._leases.seconds_to_next(self._database, list(links))

    async def renew(self, claim: ClaimT) -> None:
        """As `Work`."""
        await self._leases.renew(self._database, claim, self._lease_seconds)
