"""The life of a connection as a table. The table drives the code and draws the diagram in the docs."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.model.event import EventType


class State(enum.StrEnum):
    """Where a connection is. The comment says: calls to the system / telemetry / credits."""

    PENDING = "pending"  # none / refused / held
    VERIFYING = "verifying"  # probe only / buffered / held, or posted when it was active before
    ACTIVE = "active"  # yes / buffered / posted
    DEGRADED = "degraded"  # breaker-gated / buffered / posted
    REAUTHORIZATION_REQUIRED = "reauthorization_required"  # none / buffered / posted
    BLOCKED = "blocked"  # one trial an hour / buffered / posted
    PAUSED = "paused"  # none / buffered / posted
    DISCONNECTING = "disconnecting"  # drain only / refused / posted
    DISCONNECTED = "disconnected"  # none / refused / returned


ENDED = frozenset({State.DISCONNECTING, State.DISCONNECTED})
"""From these no way leads back."""


class Trigger(enum.StrEnum):
    """What can happen to a connection."""

    CREDENTIALS_GIVEN = "credentials_given"
    PROBE_SUCCEEDED = "probe_succeeded"
    PROBE_REFUSED = "probe_refused"
    PROBE_DENIED = "probe_denied"
    ACCOUNT_DIFFERS = "account_differs"
    VERIFICATION_DEFERRED = "verification_deferred"
    TRANSIENT_FAILURES = "transient_failures"
    CALL_SUCCEEDED = "call_succeeded"
    AUTH_REFUSED = "auth_refused"
    CALL_DENIED = "call_denied"
    PAUSE_ASKED = "pause_asked"
    RESUME_ASKED = "resume_asked"
    DISCONNECT_ASKED = "disconnect_asked"
    DRAINED = "drained"


class Credits(enum.Enum):
    """What a transition does to the connection's credits."""

    HOLD = "hold"
    POST = "post"
    RETURN = "return"


class IssueCode(enum.StrEnum):
    """What a person has to do something about."""

    VERIFICATION_FAILED = "verification_failed"
    REAUTHORIZATION_REQUIRED = "reauthorization_required"
    BLOCKED = "blocked"
    BUFFER_FILLING = "buffer_filling"
    METERS_REFUSED = "meters_refused"
    RECORDS_VANISHED = "records_vanished"
    RECORDS_LIMIT = "records_limit"


class Prior(enum.Enum):
    """Targets that a table cannot name: where verifying or paused came from."""

    STATE = "prior state"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One line of the table. `prior` narrows it to connections that came from one of these states.

    `raises` opens an issue (and solves the others); `solves` closes every issue.
    """

    source: State
    trigger: Trigger
    target: State | Prior
    prior: frozenset[State] = frozenset()
    event: EventType | None = None
    credits: Credits | None = None
    raises: IssueCode | None = None
    solves: bool = False


S, T, E, C, Code = State, Trigger, EventType, Credits, IssueCode

_NEW = frozenset({S.PENDING})
_REFUSED = frozenset({S.REAUTHORIZATION_REQUIRED})
_STOPPED = frozenset({S.BLOCKED})
_WORKED = frozenset({S.ACTIVE, S.DEGRADED})


def _given() -> Iterator[Rule]:
    yield Rule(source=S.PENDING, trigger=T.CREDENTIALS_GIVEN, target=S.VERIFYING, credits=C.HOLD)
    yield Rule(
        source=S.REAUTHORIZATION_REQUIRED,
        trigger=T.CREDENTIALS_GIVEN,
        target=S.VERIFYING,
        event=E.CONNECTION_REAUTHORIZATION_STARTED,
    )
    for state in (S.BLOCKED, S.ACTIVE, S.DEGRADED):
        yield Rule(source=state, trigger=T.CREDENTIALS_GIVEN, target=S.VERIFYING)


def _verified() -> Iterator[Rule]:
    succeeded = (
        (_NEW, E.CONNECTION_ACTIVATED, C.POST),
        (_REFUSED | _WORKED, E.CONNECTION_REAUTHORIZED, None),
        (_STOPPED, E.CONNECTION_UNBLOCKED, None),
    )
    for prior, event, effect in succeeded:
        yield Rule(
            source=S.VERIFYING,
            trigger=T.PROBE_SUCCEEDED,
            target=S.ACTIVE,
            prior=prior,
            event=event,
            credits=effect,
            solves=True,
        )
    any_failure = (T.PROBE_REFUSED, T.PROBE_DENIED, T.ACCOUNT_DIFFERS)
    of_credential = (T.PROBE_REFUSED, T.ACCOUNT_DIFFERS)
    wrong, again = E.CONNECTION_VERIFICATION_FAILED, E.CONNECTION_REAUTHORIZATION_FAILED
    failed: tuple[tuple[frozenset[State], tuple[Trigger, ...], State | Prior, EventType, IssueCode], ...] = (
        (_NEW, any_failure, S.PENDING, wrong, Code.VERIFICATION_FAILED),
        # what worked goes on with the credential that it had
        (_WORKED, any_failure, Prior.STATE, wrong, Code.VERIFICATION_FAILED),
        (_REFUSED, of_credential, S.REAUTHORIZATION_REQUIRED, again, Code.REAUTHORIZATION_REQUIRED),
        (_REFUSED, (T.PROBE_DENIED,), S.BLOCKED, E.CONNECTION_BLOCKED, Code.BLOCKED),
        (_STOPPED, any_failure, S.BLOCKED, wrong, Code.BLOCKED),
    )
    for prior, triggers, target, event, issue in failed:
        for trigger in triggers:
            yield Rule(
                source=S.VERIFYING, trigger=trigger, target=target, prior=prior, event=event, raises=issue
            )
    yield Rule(source=S.VERIFYING, trigger=T.VERIFICATION_DEFERRED, target=Prior.STATE)


def _worked() -> Iterator[Rule]:
    yield Rule(source=S.ACTIVE, trigger=T.TRANSIENT_FAILURES, target=S.DEGRADED, event=E.CONNECTION_DEGRADED)
    yield Rule(source=S.DEGRADED, trigger=T.CALL_SUCCEEDED, target=S.ACTIVE, event=E.CONNECTION_RECOVERED)
    for state in (S.ACTIVE, S.DEGRADED, S.BLOCKED):
        yield Rule(
            source=state,
            trigger=T.AUTH_REFUSED,
            target=S.REAUTHORIZATION_REQUIRED,
            event=E.CONNECTION_REAUTHORIZATION_REQUIRED,
            raises=Code.REAUTHORIZATION_REQUIRED,
        )
    for state in (S.ACTIVE, S.DEGRADED):
        yield Rule(
            source=state,
            trigger=T.CALL_DENIED,
            target=S.BLOCKED,
            event=E.CONNECTION_BLOCKED,
            raises=Code.BLOCKED,
        )
    for trigger in (
        T.PROBE_SUCCEEDED,
        T.CALL_SUCCEEDED,
    ):  # of the operation that was denied, whichever it was
        yield Rule(
            source=S.BLOCKED,
            trigger=trigger,
            target=S.ACTIVE,
            event=E.CONNECTION_UNBLOCKED,
            solves=True,
        )


def _asked() -> Iterator[Rule]:
    for state in (S.ACTIVE, S.DEGRADED, S.BLOCKED, S.REAUTHORIZATION_REQUIRED):
        yield Rule(source=state, trigger=T.PAUSE_ASKED, target=S.PAUSED, event=E.CONNECTION_PAUSED)
    yield Rule(source=S.PAUSED, trigger=T.RESUME_ASKED, target=Prior.STATE, event=E.CONNECTION_RESUMED)
    for state in (
        S.PENDING,
        S.VERIFYING,
        S.ACTIVE,
        S.DEGRADED,
        S.REAUTHORIZATION_REQUIRED,
        S.BLOCKED,
        S.PAUSED,
    ):
        yield Rule(source=state, trigger=T.DISCONNECT_ASKED, target=S.DISCONNECTING)
    yield Rule(
        source=S.DISCONNECTING,
        trigger=T.DRAINED,
        target=S.DISCONNECTED,
        event=E.CONNECTION_DISCONNECTED,
        credits=C.RETURN,
        solves=True,
    )


def table() -> tuple[Rule, ...]:
    """Every line, made anew: what `TABLE` was made of."""
    return (*_given(), *_verified(), *_worked(), *_asked())


TABLE = table()


def rule_for(state: State, trigger: Trigger, *, prior: State | None) -> Rule | None:
    """The line that applies; None where the trigger changes nothing."""
    return next(
        (
            rule
            for rule in TABLE
            if rule.source is state and rule.trigger is trigger and (not rule.prior or prior in rule.prior)
        ),
        None,
    )


def target_of(rule: Rule, *, prior: State | None) -> State:
    """Where the line leads a connection that came from `prior`."""
    if not isinstance(rule.target, Prior):
        return rule.target
    assert prior is not None, f"{rule.source} does not know where it came from"
    return prior


def remembers_prior(state: State) -> bool:
    """Whether a connection in this state knows where it came from."""
    return state in (State.VERIFYING, State.PAUSED)
