"""Failed runs of inbound streams: decides when a stream is read again after an error, and tells the
connection's health.
"""

from __future__ import annotations

import random
from typing import Protocol

import structlog

from gateway.inbound.shown import ShownToPeople
from gateway.inbound.walk import Prober
from gateway.model.backoff import full_jitter
from gateway.model.errors import (
    BadConfiguration,
    ConnectorError,
    PermissionDenied,
    RateLimited,
    Unavailable,
)
from gateway.model.operation import Operation
from gateway.settings import SyncSettings
from gateway.store.inbound import InboundClaim
from gateway.sync import runs
from gateway.sync.link import ServedConnection
from gateway.sync.runs import RunEnd, RunHealth

log = structlog.get_logger(__name__)

DENIED_BASE_SECONDS = 30.0
DENIED_CAP_SECONDS = 3600.0
"""A stream that may not be read is tried again more and more seldom, but at least about once an hour."""


class PullHealth(RunHealth, Prober, Protocol):
    """What a run reports to the connection's health, and asks of it."""


class Failures:
    """Says how a run ended that raised an error."""

    def __init__(self, settings: SyncSettings, health: PullHealth, shown: ShownToPeople) -> None:
        self._settings = settings
        self._health = health
        self._shown = shown

    async def end(
        self, claim: InboundClaim, link: ServedConnection, error: ConnectorError, *, moved: bool
    ) -> RunEnd:
        """Makes a wait of the error that ended a run. What it means for the connection is its health's to
        say.

        That a stream may not be read, or is not there, concerns this stream only: other streams may be read,
        and readings delivered.
        """
        attempts = 1 if moved else claim.attempts + 1
        if isinstance(error, PermissionDenied | BadConfiguration):
            await self._health.unused(link, Operation.PULL)
            wait = full_jitter(
                attempts,
                rand=random.random(),
                base_seconds=DENIED_BASE_SECONDS,
                cap_seconds=DENIED_CAP_SECONDS,
            )
        else:
            floor = await self._health.failed(link, error, attempts=attempts, operation=Operation.PULL)
            wait = runs.seconds_to_retry(self._settings, error, attempts, at_least=floor)
        if isinstance(error, RateLimited):
            count = 1 if moved else claim.put_off + 1
            wait = runs.seconds_when_put_off(self._settings, error, count)
            await self._shown.waiting(claim, error, wait)
            return RunEnd(
                state="running",
                next_in_seconds=wait,
                attempts=claim.attempts,
                put_off=count,
                is_asked_for=True,
            )
        await self._shown.waiting(claim, error, wait)
        log.warning(
            "inbound.run_failed",
            connection=claim.connection,
            stream=claim.stream,
            phase=claim.phase,
            attempt=attempts,
            error=type(error).__name__,
            detail=str(error),
            request_id=error.request_id,
            retry_in_seconds=round(wait, 1),
        )
        return RunEnd(
            state="failed",
            next_in_seconds=wait,
            attempts=attempts,
            error=str(error),
            is_asked_for=isinstance(error, Unavailable) and error.retry_after is not None,
        )
