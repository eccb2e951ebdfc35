"""`Transitions.move` is the only function that moves a connection from state to state. It changes the state,
the audit row, the credits, the issue and the event in the caller's transaction.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import assert_never

import structlog

from gateway.model.access import Caller
from gateway.model.connection import (
    Credits,
    IssueCode,
    Rule,
    State,
    Trigger,
    remembers_prior,
    rule_for,
    target_of,
)
from gateway.model.connector import Manifest
from gateway.model.event import NewEvent
from gateway.settings import Settings
from gateway.store import connections, issues, outbox
from gateway.store import credits as ledger
from gateway.store.connections import Cause, Locked
from gateway.store.issues import NewIssue
from gateway.store.pool import Connection, Database

log = structlog.get_logger(__name__)

BLOCKED_SECONDS = 3600.0
BLOCKED_JITTER = (0.1, 0.1)
"""Parts of BLOCKED_SECONDS: one that is always added, and the most that is added at random. So there are at
most 24 calls a day, with those that led to the state.
"""

DEFERRED_SECONDS = 900.0
"""From a verification that was put off to the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A transition, which takes place when the transaction commits."""

    connection: str
    from_state: State
    to_state: State
    trigger: Trigger
    reason: str | None

    def write_log(self) -> None:
        """Logs the transition. Called after the commit."""
        log.info(
            "connection.state_changed",
            connection=self.connection,
            from_state=str(self.from_state),
            to_state=str(self.to_state),
            trigger=str(self.trigger),
            reason=self.reason,
        )


def cause_of(trigger: Trigger, caller: Caller) -> Cause:
    """The cause of a transition that a person or a program asked for, in words that are shown."""
    who = _CALLERS.get(caller.name, f"by {caller.name}")
    return Cause(reason=f"{_DONE[trigger]} {who}", request_id=caller.request_id, actor=caller.name)


_DONE: Mapping[Trigger, str] = {
    Trigger.PAUSE_ASKED: "Paused",
    Trigger.RESUME_ASKED: "Resumed",
    Trigger.DISCONNECT_ASKED: "Disconnected",
}
_CALLERS: Mapping[str, str] = {"cli": "from the command line", "file": "by the declared file"}


class Transitions:
    """Moves connections by the table of `gateway.model.connection`. Their states are in PostgreSQL only."""

    def __init__(self, manifests: Mapping[str, Manifest], settings: Settings) -> None:
        self._manifests = manifests
        self._credits = settings.credits
        self._public_url = settings.http.public_url.rstrip("/")
        self._moves: ContextVar[list[Moved]] = ContextVar("moves")

    @asynccontextmanager
    async def transaction(self, database: Database) -> AsyncIterator[Connection]:
        """The transaction that `move` needs. Its transitions are logged after the commit, and none that was
        rolled back.
        """
        moves: list[Moved] = []
        outer = self._moves.set(moves)
        try:
            async with database.transaction() as connection:
                yield connection
        finally:
            self._moves.reset(outer)
        for moved in moves:
            moved.write_log()

    async def move(
        self, connection: Connection, connection_id: str, trigger: Trigger, cause: Cause
    ) -> Moved | None:
        """Moves a connection within the caller's `transaction`. None where the trigger means nothing in the
        state that the connection is in, or where it is news of a credential that is no longer in use
        (`cause.generation`).

        News about settings (`cause.configuration`) that are no longer in use mean nothing either. Locks the
        connection's row, then the pool of credits. Raises RequestRefused where there are not enough credits.
        """
        locked = await connections.lock(connection, connection_id)
        if locked is None or (cause.generation is not None and cause.generation != locked.generation):
            return None
        if cause.configuration is not None and cause.configuration < locked.settings_since:
            return None
        rule = rule_for(locked.state, trigger, prior=locked.prior)
        if rule is None:
            return None
        target = target_of(rule, prior=locked.prior)
        prior = locked.state if remembers_prior(target) else None
        look_in = _seconds_to_first_look(trigger, target)
        since, version = await connections.move(
            connection, locked, target, trigger, cause, prior=prior, look_in_seconds=look_in
        )
        await self._change_credits(connection, rule, locked)
        await self._change_issue(connection, rule, locked, cause)
        if rule.event is not None:
            data = {
                "state": str(target),
                "from_state": str(locked.state),
                "reason": cause.reason,
                "since": since.isoformat(),
                "version": version,
                "system": locked.system,
                "hosting": locked.hosting,
                "operation": cause.operation,
                **self._issue_for_event(rule, locked, cause),
            }
            event = NewEvent(
                type=rule.event,
                customer=locked.customer,
                connection=connection_id,
                data=data,
                request_id=cause.request_id,
            )
            await outbox.append(connection, event)
        moved = Moved(
            connection=connection_id,
            from_state=locked.state,
            to_state=target,
            trigger=trigger,
            reason=cause.reason,
        )
        self._moves.get().append(moved)
        return moved

    def _issue_for_event(self, rule: Rule, locked: Locked, cause: Cause) -> dict[str, str]:
        """What the event says of the issue that the transition raises; nothing where it raises none."""
        if rule.raises is None:
            return {}
        issue = self.issue(rule.raises, locked, cause)
        return {"title": issue.title, "instructions": issue.instructions, "action_url": issue.action_url}

    async def _change_credits(self, connection: Connection, rule: Rule, locked: Locked) -> None:
        match rule.credits:
            case None:
                pass
            case Credits.HOLD:
                held = {"connection_id": locked.connection, "customer": locked.customer}
                await ledger.hold(connection, **held, amount=locked.price, settings=self._credits)
            case Credits.POST:
                await ledger.post(connection, connection_id=locked.connection)
            case Credits.RETURN:
                await ledger.give_back(connection, connection_id=locked.connection)
            case _:
                assert_never(rule.credits)

    async def _change_issue(self, connection: Connection, rule: Rule, locked: Locked, cause: Cause) -> None:
        if rule.raises is not None:
            await issues.open_issue(
                connection,
                locked.connection,
                self.issue(rule.raises, locked, cause),
                request_id=cause.request_id,
            )
        elif rule.solves:
            await issues.solve(connection, locked.connection)

    def issue(self, code: IssueCode, locked: Locked, cause: Cause) -> NewIssue:
        """The issue as a person reads it: instructions of the system's connector, with the system's own
        words.
        """
        manifest = self._manifests[locked.system]
        said = f" {manifest.title} said: {cause.reason}" if cause.reason else ""
        url = f"{self._public_url}/connections/{locked.connection}"
        match code:
            case IssueCode.REAUTHORIZATION_REQUIRED:
                title = f"{manifest.title} refuses the credential of {locked.connection}"
                instructions = manifest.reauthorization
            case IssueCode.BLOCKED:
                title = f"{manifest.title} does not allow what {locked.connection} has to do"
                instructions = (
                    "The credential is good. Give its user the missing permission, or correct the"
                    " connection's settings. The gateway tries again about once an hour, and at once when it"
                    f" is asked to.{said}"
                )
            case IssueCode.VERIFICATION_FAILED:
                title = (
                    f"{manifest.title} does not take the credential that was given for {locked.connection}"
                )
                instructions = f"{manifest.reauthorization}{said}"
            case (
                IssueCode.BUFFER_FILLING
                | IssueCode.METERS_REFUSED
                | IssueCode.RECORDS_VANISHED
                | IssueCode.RECORDS_LIMIT
            ):
                raise AssertionError(
                    "no transition raises it: retention, who asks for meters or who reads records does"
                )
            case _:
                assert_never(code)
        return NewIssue(code=code, severity="error", title=title, instructions=instructions, action_url=url)


def to_next_trial() -> float:
    """Seconds until a blocked connection is tried again: about an hour, jittered."""
    always, at_random = BLOCKED_JITTER
    return BLOCKED_SECONDS * (1.0 + always + at_random * random.random())


def _seconds_to_first_look(trigger: Trigger, target: State) -> float:
    """Seconds from a transition to the first look at the connection in its new state.

    They are written with the transition. If a later statement put the look off the connection would be due
    until then: the lifecycle, which hears of the transition within milliseconds, would call the system at
    once.
    """
    match trigger:
        case Trigger.VERIFICATION_DEFERRED:
            return DEFERRED_SECONDS
        case Trigger.CALL_DENIED | Trigger.PROBE_DENIED | Trigger.PROBE_REFUSED | Trigger.ACCOUNT_DIFFERS if (
            target is State.BLOCKED
        ):
            return to_next_trial()
        case _:
            return 0.0
