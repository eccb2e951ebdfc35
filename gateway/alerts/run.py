"""One run of a connection's alerts: the log is judged, the system's side is followed, and the system is
called where it may be. Judging goes on while the system may not be called, so that what is open is seen.
"""

from __future__ import annotations

import random
from contextlib import suppress

import structlog

from gateway import clock
from gateway.alerts import life
from gateway.alerts.call import CallResults, Calls
from gateway.alerts.judge import SliceResult, judge_silence, judge_slice
from gateway.bulkhead import Fault
from gateway.model.alert_life import AlertTrigger
from gateway.model.errors import ConnectorError, RateLimited, StoreError
from gateway.model.operation import Operation
from gateway.settings import SyncSettings
from gateway.store import alert_streams
from gateway.store import alerts as store
from gateway.store.alert_streams import AlertClaim
from gateway.store.pool import Database
from gateway.store.troubles import Troubles
from gateway.sync import runs
from gateway.sync.link import ServedConnection
from gateway.sync.runs import RunHealth

log = structlog.get_logger(__name__)

MAX_STREAMS = 64
"""In hand at once: each judges on the loop that everybody's telemetry goes through."""

RUN_SECONDS = 10.0
"""A run with more to do ends here and is due again at once, so that others have their turn."""

INTERVAL_SECONDS = 5.0
"""Between two looks at the log: how late an alert is at most, beside the lateness of its samples."""

LOOK_AGAIN = -1
"""Before every position of a record log."""

_SEEN = {"acknowledged": AlertTrigger.SEEN_ACKNOWLEDGED, "closed": AlertTrigger.SEEN_CLOSED}


def _followed(claim: AlertClaim, seen: int, called: CallResults) -> int | None:
    """Up to where records were looked at. A record may have been there before the alert that it belongs to
    was known to be raised: after calls all of them are looked at again.
    """
    if called.changed:
        return LOOK_AGAIN
    return None if seen >= store.FOLLOWED_AT_ONCE else claim.records


class AlertRunner:
    """Runs claimed streams of alerts. Holds no state between runs: everything is in PostgreSQL."""

    def __init__(
        self, database: Database, settings: SyncSettings, health: RunHealth, troubles: Troubles
    ) -> None:
        self._database = database
        self._settings = settings
        self._health = health
        self._troubles = troubles

    async def run(self, claim: AlertClaim, link: ServedConnection) -> None:
        """Works the connection's alerts and stores how it ended. Raises LeaseLost and StoreError."""
        await self._work(claim, link)
        with suppress(StoreError):  # it is over with the next run
            await self._troubles.over(link.connection, "alert")

    async def _work(self, claim: AlertClaim, link: ServedConnection) -> None:
        until = clock.monotonic() + RUN_SECONDS
        changed, more = 0, False
        for part in (judge_slice, judge_silence):
            done = SliceResult(is_last=False)
            while not done.is_last and clock.monotonic() < until:
                done = await part(self._database, claim)
                changed += done.changed
            more = more or not done.is_last
        seen = await self._follow(claim, link)
        changed += seen
        wait, attempts, put_off_count = 0.0, claim.attempts, claim.put_off
        called = CallResults()
        if claim.callable:
            wait, attempts, put_off_count = await self._call(claim, link, called, until)
            changed += called.changed
        if called.denied is not None:
            words = f"the system does not let it raise alerts, and is asked again each hour: {called.denied}"
            await self._troubles.note(link.connection, "raise", words)
        elif called.answered:
            await self._troubles.over(link.connection, "raise")
        await alert_streams.finish(
            self._database,
            claim,
            next_in_seconds=0.0 if more else INTERVAL_SECONDS * (0.8 + 0.2 * random.random()),
            calls_in_seconds=wait,
            attempts=attempts,
            put_off=put_off_count,
            changed=bool(changed),
            followed=_followed(claim, seen, called),
        )

    async def crashed(self, claim: AlertClaim, link: ServedConnection, fault: Fault) -> None:
        """Schedules a run that ended in a fault of our own like one that failed, so that it is seen and does
        not spin.
        """
        await self._troubles.note(link.connection, "alert", fault.text)
        attempts = claim.attempts + 1
        wait = runs.seconds_after_fault(self._settings, attempts)
        await alert_streams.finish(
            self._database, claim, next_in_seconds=wait, calls_in_seconds=wait, attempts=attempts
        )

    async def _follow(self, claim: AlertClaim, link: ServedConnection) -> int:
        """What people at the system have done with alerts, as the inbound streams have it."""
        seen_in = {kind: stream for kind, stream in link.raises.items() if stream is not None}
        if not seen_in:
            return 0
        async with self._database.transaction() as connection:
            await alert_streams.watermark(connection, claim)
            progress = dict(await store.followed(connection, claim.customer, claim.connection, seen_in))
            for alert in await store.some(connection, list(progress)) if progress else ():
                await life.move(connection, alert, _SEEN[progress[alert.alert]])
            await alert_streams.prove(connection, claim)
        return len(progress)

    async def _call(
        self, claim: AlertClaim, link: ServedConnection, called: CallResults, until: float
    ) -> tuple[float, int, int]:
        """Seconds until the system may be called again, failed runs in a row, and those that it put off."""
        calls = Calls(self._database, self._settings, claim, link, called)
        if not await calls.is_due():
            return 0.0, claim.attempts, claim.put_off
        if (wait := await self._health.admit(link, Operation.PROBE)) is not None:
            return wait, claim.attempts, claim.put_off
        try:
            while clock.monotonic() < until and await calls.some():
                pass
        except ConnectorError as error:
            return await self._failed(claim, link, error, moved=called.answered)
        if called.answered:
            # an event that is taken says as much as a probe, and nothing of readings
            await self._health.succeeded(link, Operation.PROBE)
        else:
            await self._health.unused(link, Operation.PROBE)
        return 0.0, 0, 0

    async def _failed(
        self, claim: AlertClaim, link: ServedConnection, error: ConnectorError, *, moved: bool
    ) -> tuple[float, int, int]:
        attempts = claim.attempts + 1
        floor = await self._health.failed(link, error, attempts=attempts, operation=Operation.PROBE)
        if isinstance(error, RateLimited):
            count = 1 if moved else claim.put_off + 1
            return runs.seconds_when_put_off(self._settings, error, count), claim.attempts, count
        wait = runs.seconds_to_retry(self._settings, error, attempts, at_least=floor)
        log.warning(
            "alerts.calls_failed",
            connection=claim.connection,
            attempt=attempts,
            error=type(error).__name__,
            detail=str(error),
            request_id=error.request_id,
            retry_in_seconds=round(wait, 1),
        )
        return wait, attempts, claim.put_off
