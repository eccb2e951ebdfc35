"""Shows people how inbound streams fare: what a stream waits for, as a trouble of its connection, and what
somebody has to decide, as an issue.
"""

from __future__ import annotations

from datetime import timedelta

from gateway import clock
from gateway.bulkhead import Fault
from gateway.inbound.walk import WalkProgress
from gateway.model.backoff import waiting
from gateway.model.connection import IssueCode
from gateway.model.errors import (
    BadConfiguration,
    ConnectorError,
    PermissionDenied,
    RateLimited,
    Unavailable,
)
from gateway.store import inbound, issues
from gateway.store.inbound import InboundClaim
from gateway.store.issues import NewIssue
from gateway.store.pool import Database
from gateway.store.troubles import Troubles


class ShownToPeople:
    """Each method raises StoreError."""

    def __init__(self, database: Database, troubles: Troubles, *, public_url: str, most: int) -> None:
        """`most`: how many records a connection may have."""
        self._database = database
        self._troubles = troubles
        self._public_url = public_url.rstrip("/")
        self._most = most

    async def well(self, claim: InboundClaim) -> None:
        """The stream was read: it waits for nothing."""
        await self._troubles.over(claim.connection, _part(claim))

    async def fault(self, claim: InboundClaim, fault: Fault) -> None:
        """A run ended in a fault of our own."""
        await self._troubles.note(claim.connection, _part(claim), fault.text)

    async def waiting(self, claim: InboundClaim, error: ConnectorError, wait: float) -> None:
        """Shows what the stream waits for, and until when, where the connection's state does not say so."""
        until = clock.now() + timedelta(seconds=wait)
        match error:
            case PermissionDenied() | BadConfiguration():
                said = f"stream {claim.stream} is not read: {error}"
                await self._troubles.note(claim.connection, _part(claim), said)
            case Unavailable() if error.reference is not None:
                await self._troubles.note(claim.connection, _part(claim), str(error))
            case RateLimited() | Unavailable() if error.retry_after is not None:
                said = f"stream {claim.stream}: {waiting(error.retry_after, until=until)}"
                await self._troubles.note(claim.connection, _part(claim), said)
            case _:
                await self._troubles.over(claim.connection, _part(claim))

    async def to_decide(self, claim: InboundClaim, read: WalkProgress) -> None:
        """Opens an issue where more records are missing than a system usually loses, and one where there is
        no room for more records. Solves the first one when nothing is to be confirmed any more.
        """
        if read.refused:
            await self._add_issue(
                claim,
                IssueCode.RECORDS_LIMIT,
                f"{claim.connection} has more than {self._most:,} records",
                "Records beyond that are not kept; those that are there are still updated. Read fewer streams"
                " (`sync.pull`) or raise `records.per_connection`, then run `fieldgate sync --full`: it reads"
                " what was left out.",
            )
        if read.last.vanished:
            await self._add_issue(
                claim,
                IssueCode.RECORDS_VANISHED,
                f"{read.last.vanished:,} of {read.last.alive:,} records of {claim.stream} are not at the"
                " system any more",
                "That is more than a fifth, so nothing was deleted here. Look at the system: is its user"
                " allowed to see all of them? If they are gone, confirm it: `fieldgate sync"
                f" {claim.connection} --stream {claim.stream} --confirm-deletions`.",
            )
        elif read.completed_all and not await inbound.vanished(self._database, claim.connection):
            async with self._database.connection() as connection:
                await issues.solve_one(connection, claim.connection, IssueCode.RECORDS_VANISHED)

    async def _add_issue(self, claim: InboundClaim, code: IssueCode, title: str, instructions: str) -> None:
        url = f"{self._public_url}/connections/{claim.connection}"
        issue = NewIssue(
            code=code, severity="warning", title=title, instructions=instructions, action_url=url
        )
        async with self._database.connection() as connection:
            await issues.add(connection, claim.connection, issue)


def _part(claim: InboundClaim) -> str:
    """The part of the connection whose trouble it is."""
    return f"pull {claim.stream}"
