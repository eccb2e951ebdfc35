"""Inbound streams as a scheduler's work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.inbound.run import InboundRunner
from gateway.store import inbound
from gateway.store.inbound import Claim
from gateway.store.pool import Database
from gateway.sync.link import Link


class InboundWork:
    """Records from the systems. `owner` names the replica in leases."""

    def __init__(
        self, database: Database, runner: InboundRunner, *, lease_seconds: float, owner: str
    ) -> None:
        self._database = database
        self._owner = owner
        self._lease_seconds = lease_seconds
        self.run, self.crashed = runner.run, runner.crashed

    def serve(self, links: Mapping[str, Link]) -> None:
        """As the scheduler's `Work`: a claim is told which they are."""

    async def claim(
        self,
        links: Mapping[str, Link],
        limit: int,
        *,
        in_hand: Sequence[str],
        has_ended: bool,  # noqa: ARG002
    ) -> list[Claim]:
        """As the scheduler's `Work`."""
        return await inbound.claim(
            self._database, self._owner, self._lease_seconds, list(links), limit, in_hand=in_hand
        )

    async def seconds_to_next(self, links: Mapping[str, Link]) -> float | None:
        """As the scheduler's `Work`."""
        return await inbound.seconds_to_next(self._database, list(links))

    async def renew(self, claim: Claim) -> None:
        """As the scheduler's `Work`."""
        await inbound.renew(self._database, claim, self._lease_seconds)
