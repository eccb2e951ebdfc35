"""The life of an alert: states, what moves it, and the event that tells. Pure; the table draws the diagram of
the docs.

Two things happen to an alert at once: the system takes it, works on it and closes it, and the telemetry gets
well. The state says how far the system is; that the condition is over is noted beside it, and ends the life
(`well`) once the system has had its say about the raising. So an alert that is over before its system can be
reached is raised all the same: it happened.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from gateway.model.event import EventType


class AlertState(enum.StrEnum):
    """How far an alert is."""

    PENDING = "pending"
    RAISING = "raising"
    RAISED = "raised"
    ACKNOWLEDGED = "acknowledged"
    CLOSED = "closed"
    FAILED = "failed"
    CLEARED = "cleared"


class AlertTrigger(enum.StrEnum):
    """What moves it."""

    CALL_BEGUN = "call_begun"
    CALL_ACCEPTED = "call_accepted"
    CALL_PUT_OFF = "call_put_off"
    CALL_DENIED = "call_denied"
    CALL_REFUSED = "call_refused"
    SEEN_ACKNOWLEDGED = "seen_acknowledged"
    SEEN_CLOSED = "seen_closed"
    WELL = "well"
    WITHDRAWN = "withdrawn"
    ENDED = "ended"
    RESUMED = "resumed"
    RESUMED_UNRAISED = "resumed_unraised"


class Why(enum.StrEnum):
    """Why an alert is over."""

    WELL = "well"
    LATE_SAMPLE = "late_sample"
    RULE_CHANGED = "rule_changed"
    RULE_REMOVED = "rule_removed"
    DISCONNECTED = "disconnected"
    DEVICE_GONE = "device_gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRow:
    """A line of the table."""

    source: AlertState
    trigger: AlertTrigger
    target: AlertState
    event: EventType | None = None


_S, _T, _E = AlertState, AlertTrigger, EventType

ALERT_TABLE: tuple[AlertRow, ...] = (
    AlertRow(source=_S.PENDING, trigger=_T.CALL_BEGUN, target=_S.RAISING),
    AlertRow(source=_S.RAISING, trigger=_T.CALL_BEGUN, target=_S.RAISING),
    AlertRow(source=_S.RAISING, trigger=_T.CALL_ACCEPTED, target=_S.RAISED, event=_E.ALERT_RAISED),
    AlertRow(source=_S.RAISING, trigger=_T.CALL_PUT_OFF, target=_S.PENDING),
    # a person has to see to it at the system; it is tried again
    AlertRow(source=_S.RAISING, trigger=_T.CALL_DENIED, target=_S.PENDING, event=_E.ALERT_FAILED),
    AlertRow(source=_S.RAISING, trigger=_T.CALL_REFUSED, target=_S.FAILED, event=_E.ALERT_FAILED),
    AlertRow(
        source=_S.RAISED, trigger=_T.SEEN_ACKNOWLEDGED, target=_S.ACKNOWLEDGED, event=_E.ALERT_ACKNOWLEDGED
    ),
    AlertRow(source=_S.RAISED, trigger=_T.SEEN_CLOSED, target=_S.CLOSED, event=_E.ALERT_ACKNOWLEDGED),
    AlertRow(source=_S.ACKNOWLEDGED, trigger=_T.SEEN_CLOSED, target=_S.CLOSED, event=_E.ALERT_ACKNOWLEDGED),
    *(
        AlertRow(source=state, trigger=_T.WELL, target=_S.CLEARED, event=_E.ALERT_CLEARED)
        for state in (_S.RAISED, _S.ACKNOWLEDGED, _S.CLOSED, _S.FAILED)
    ),
    # nothing was sent yet: nobody is told of what never was
    AlertRow(source=_S.PENDING, trigger=_T.WITHDRAWN, target=_S.CLEARED),
    *(
        AlertRow(source=state, trigger=_T.WITHDRAWN, target=_S.CLEARED, event=_E.ALERT_CLEARED)
        for state in (_S.RAISED, _S.ACKNOWLEDGED, _S.CLOSED, _S.FAILED)
    ),
    AlertRow(source=_S.PENDING, trigger=_T.ENDED, target=_S.CLEARED),
    *(
        AlertRow(source=state, trigger=_T.ENDED, target=_S.CLEARED, event=_E.ALERT_CLEARED)
        for state in (_S.RAISING, _S.RAISED, _S.ACKNOWLEDGED, _S.CLOSED, _S.FAILED)
    ),
    # a late sample shows that it was not over; a pending one of these was never sent
    AlertRow(source=_S.CLEARED, trigger=_T.RESUMED, target=_S.RAISED, event=_E.ALERT_RAISED),
    # the system refused it, and has none: it is asked again
    AlertRow(source=_S.CLEARED, trigger=_T.RESUMED_UNRAISED, target=_S.PENDING),
)

OPEN_STATES = frozenset(AlertState) - {AlertState.CLEARED}
"""Of an alert that is not cleared. One that the system has closed is cleared when its telemetry is well."""
FOLLOWED_STATES = frozenset({AlertState.RAISED, AlertState.ACKNOWLEDGED})


def alert_row(state: AlertState, trigger: AlertTrigger) -> AlertRow | None:
    """The line that applies; None where the trigger changes nothing now."""
    return next((row for row in ALERT_TABLE if row.source is state and row.trigger is trigger), None)
