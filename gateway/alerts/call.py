"""Calls the system for alerts: raises each once by its reference, and notes its end.

Exactly once: the intent is committed before the call, under the lease; a connector looks an event's reference
up before it makes anything; and what has no answer, or none that survived us, is asked again only after a
while in which a call that was on its way has arrived.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from datetime import UTC
from typing import assert_never, cast

import structlog

from gateway import clock
from gateway.alerts import life
from gateway.model.alert_life import AlertState, AlertTrigger
from gateway.model.backoff import full_jitter
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    BatchRefused,
    ConnectorError,
    LeaseLost,
    OutcomeUnknown,
    PermissionDenied,
    RateLimited,
    Unavailable,
)
from gateway.model.exchange import EventToRaise, RaisesEvents, Severity
from gateway.model.inbound import NotesEvents
from gateway.model.meter import apply_rule
from gateway.model.outcome import Accepted, Duplicate, Outcome, Rejected, Retry, Superseded, Unknown
from gateway.model.sample import MICROSECOND
from gateway.settings import SyncSettings
from gateway.store import alert_streams
from gateway.store import alerts as store
from gateway.store.alert_streams import AlertClaim
from gateway.store.alerts import Alert
from gateway.store.calls import may_call
from gateway.store.pool import Database
from gateway.sync.link import ServedConnection

log = structlog.get_logger(__name__)

AT_ONCE = 50
DENIED_SECONDS = 3600.0
MAX_NOTES = 12


@dataclass(slots=True)
class CallResults:
    """Of a run: whether the system answered, how many alerts changed, and why a call was denied."""

    answered: bool = False
    changed: int = 0
    denied: str | None = None


class Calls:
    """Under one claim. Raises ConnectorError where the system, and not one alert, is the matter."""

    def __init__(
        self,
        database: Database,
        settings: SyncSettings,
        claim: AlertClaim,
        link: ServedConnection,
        called: CallResults,
    ) -> None:
        self._database = database
        self._claim = claim
        self._link = link
        self._called = called
        self._timeout_seconds = settings.push_timeout.total_seconds()
        self._unknown_seconds = settings.unknown_wait.total_seconds()
        self._cap_seconds = settings.backoff_cap.total_seconds()
        self._start_seconds = settings.lease.total_seconds() / 3

    async def some(self) -> bool:
        """Makes the calls that are due; False where none is, or the connection may call no more."""
        async with self._database.connection() as connection:
            due = await store.due(connection, self._claim.connection, AT_ONCE)
        for alert in due:
            if not await may_call(self._database, self._link):
                return False
            if alert.state in (AlertState.PENDING, AlertState.RAISING):
                await self._raise(alert)
            else:
                await self._note(alert)
        return bool(due)

    async def is_due(self) -> bool:
        """Whether any call is."""
        async with self._database.connection() as connection:
            return bool(await store.due(connection, self._claim.connection, 1))

    async def _raise(self, alert: Alert) -> None:
        connector = self._link.connector
        attempts = alert.attempts + 1
        # before the proof: what we count from is never later than what it shows
        proved_monotonic = clock.monotonic()
        # Where we are killed in the call, whoever comes next asks when it must have ended, and arrived.
        begun = await self._move(
            alert,
            AlertTrigger.CALL_BEGUN,
            due_in_seconds=self._timeout_seconds + self._again_seconds(attempts),
            attempts=attempts,
        )
        if begun.state is not AlertState.RAISING:
            return  # it ended meanwhile
        if not isinstance(connector, RaisesEvents):
            words = "the system cannot raise events with these settings"
            await self._move(begun, AlertTrigger.CALL_REFUSED, error=words)
            return
        if clock.monotonic() - proved_monotonic > self._start_seconds:
            raise LeaseLost(f"the alerts of {self._claim.connection} may be another replica's by now")
        try:
            async with asyncio.timeout(self._timeout_seconds):
                outcome = await connector.raise_event(_event(begun, _meter(self._link, begun)))
        except TimeoutError as error:
            await self._unknown(begun, attempts)
            raise OutcomeUnknown(f"no answer within {self._timeout_seconds:g} s") from error
        except Unavailable:
            await self._unknown(begun, attempts)
            raise
        except (RateLimited, AuthRefused):
            await self._move(begun, AlertTrigger.CALL_PUT_OFF, due_in_seconds=0.0, attempts=alert.attempts)
            raise
        except (PermissionDenied, BadConfiguration, BatchRefused) as error:
            self._called.denied = str(error)
            wait = DENIED_SECONDS * (1.0 + 0.1 * random.random())
            await self._move(
                begun, AlertTrigger.CALL_DENIED, error=str(error), due_in_seconds=wait, attempts=attempts
            )
            return
        self._called.answered = True
        await self._settle(begun, outcome, attempts)

    async def _unknown(self, alert: Alert, attempts: int) -> None:
        """The system may have it, or take it yet: it is asked again after a while."""
        again = self._again_seconds(attempts)
        await self._move(alert, AlertTrigger.CALL_BEGUN, due_in_seconds=again, attempts=attempts)

    async def _settle(self, alert: Alert, outcome: Outcome, attempts: int) -> None:
        match outcome:
            case Accepted(remote_id=remote_id) | Duplicate(remote_id=remote_id):
                await self._move(alert, AlertTrigger.CALL_ACCEPTED, remote_id=remote_id)
                log.info(
                    "alerts.alert_raised", connection=alert.connection, alert=alert.alert, rule=alert.rule
                )
            case Rejected():
                words = f"{outcome.code}: {outcome.message}"
                await self._move(alert, AlertTrigger.CALL_REFUSED, error=words)
                log.warning(
                    "alerts.alert_refused",
                    connection=alert.connection,
                    alert=alert.alert,
                    rule=alert.rule,
                    detail=words,
                )
            case Retry():
                wait = max(outcome.after_seconds, self._jitter(attempts))
                await self._move(
                    alert,
                    AlertTrigger.CALL_PUT_OFF,
                    error=outcome.message,
                    due_in_seconds=wait,
                    attempts=attempts,
                )
            case Unknown() | Superseded():
                await self._unknown(alert, attempts)
                raise OutcomeUnknown(outcome.message)
            case _:
                assert_never(outcome)

    async def _note(self, alert: Alert) -> None:
        connector = self._link.connector
        if not isinstance(connector, NotesEvents) or alert.remote_id is None:
            await self._noted(alert, None)
            return
        # as for raising: also a note is asked for again when the call before must have ended, and arrived
        again = self._again_seconds(alert.attempts + 1)
        await self._noted(alert, self._timeout_seconds + again)
        over = alert.well_at or alert.opened_at
        text = f"{over.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z: {life.said(alert.why)} ({alert.alert})"
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await connector.note_event(alert.remote_id, text)
        except TimeoutError as error:
            await self._noted(alert, again)
            raise OutcomeUnknown(f"no answer within {self._timeout_seconds:g} s") from error
        except (PermissionDenied, BadConfiguration, BatchRefused) as error:
            if alert.attempts >= MAX_NOTES:
                log.warning(
                    "alerts.note_given_up", connection=alert.connection, alert=alert.alert, detail=str(error)
                )
                await self._noted(alert, None)
            return
        except ConnectorError:
            await self._noted(alert, again)
            raise
        self._called.answered = True
        await self._noted(alert, None)

    async def _noted(self, alert: Alert, due_in_seconds: float | None) -> None:
        async with self._database.transaction() as connection:
            await alert_streams.watermark(connection, self._claim)
            await store.noted(connection, alert, due_in_seconds=due_in_seconds)
            await alert_streams.prove(connection, self._claim)

    async def _move(
        self,
        alert: Alert,
        trigger: AlertTrigger,
        *,
        remote_id: str | None = None,
        error: str | None = None,
        due_in_seconds: float | None = None,
        attempts: int = 0,
    ) -> Alert:
        """One fenced transaction, of the alert as it is now: a late sample may have ended it meanwhile."""
        async with self._database.transaction() as connection:
            await alert_streams.watermark(connection, self._claim)
            held = await store.some(connection, [alert.alert])
            if not held or held[0].state is not alert.state:
                return held[0] if held else alert
            moved = await life.move(
                connection,
                held[0],
                trigger,
                remote_id=remote_id,
                error=error,
                due_in_seconds=due_in_seconds,
                attempts=attempts,
            )
            await alert_streams.prove(connection, self._claim)
        self._called.changed += 1
        return moved

    def _again_seconds(self, attempts: int) -> float:
        """Until one whose outcome nobody knows is asked for: what was on its way has arrived by then."""
        return self._unknown_seconds + self._jitter(attempts)

    def _jitter(self, attempts: int) -> float:
        return full_jitter(attempts, rand=random.random(), cap_seconds=self._cap_seconds)


def _meter(link: ServedConnection, alert: Alert) -> str:
    """What the connection feeds with the metric, or with anything of the device: where people at the system
    find it.
    """
    metric = alert.metric
    if metric is not None:
        for rule in link.rules:
            if rule.feeds_from(alert.device, metric):
                return apply_rule(rule, alert.device, metric, resolution=MICROSECOND).meter
    for rule in link.rules:
        if rule.matches(alert.device) and not rule.is_metric_glob:
            return apply_rule(rule, alert.device, rule.metric, resolution=MICROSECOND).meter
    return ""


def _event(alert: Alert, meter: str) -> EventToRaise:
    return EventToRaise(
        reference=alert.alert,
        title=alert.title,
        text=alert.text,
        meter=meter,
        at=alert.opened_at,
        severity=cast("Severity", alert.severity),
        kind=alert.kind,
    )
