"""The table of states against what the product promises for each."""

from __future__ import annotations

import pytest

from gateway.model.connection import TABLE, Prior, Rule, State, Trigger, rule_for, table
from gateway.model.event import EventType
from tests.fixtures.states import next_state
from tools.diagrams import connection_diagram

S, T, E = State, Trigger, EventType


@pytest.mark.parametrize(
    ("state", "prior", "trigger", "target", "event"),
    [
        (S.PENDING, None, T.CREDENTIALS_GIVEN, S.VERIFYING, None),
        (S.VERIFYING, S.PENDING, T.PROBE_SUCCEEDED, S.ACTIVE, E.CONNECTION_ACTIVATED),
        (S.VERIFYING, S.PENDING, T.PROBE_REFUSED, S.PENDING, E.CONNECTION_VERIFICATION_FAILED),
        (S.VERIFYING, S.PENDING, T.PROBE_DENIED, S.PENDING, E.CONNECTION_VERIFICATION_FAILED),
        (
            S.VERIFYING,
            S.REAUTHORIZATION_REQUIRED,
            T.PROBE_REFUSED,
            S.REAUTHORIZATION_REQUIRED,
            E.CONNECTION_REAUTHORIZATION_FAILED,
        ),
        (S.VERIFYING, S.REAUTHORIZATION_REQUIRED, T.PROBE_SUCCEEDED, S.ACTIVE, E.CONNECTION_REAUTHORIZED),
        (S.VERIFYING, S.REAUTHORIZATION_REQUIRED, T.PROBE_DENIED, S.BLOCKED, E.CONNECTION_BLOCKED),
        (S.VERIFYING, S.ACTIVE, T.PROBE_REFUSED, S.ACTIVE, E.CONNECTION_VERIFICATION_FAILED),
        (S.VERIFYING, S.DEGRADED, T.VERIFICATION_DEFERRED, S.DEGRADED, None),
        (S.VERIFYING, S.BLOCKED, T.PROBE_SUCCEEDED, S.ACTIVE, E.CONNECTION_UNBLOCKED),
        (S.ACTIVE, None, T.TRANSIENT_FAILURES, S.DEGRADED, E.CONNECTION_DEGRADED),
        (S.DEGRADED, None, T.CALL_SUCCEEDED, S.ACTIVE, E.CONNECTION_RECOVERED),
        (S.ACTIVE, None, T.AUTH_REFUSED, S.REAUTHORIZATION_REQUIRED, E.CONNECTION_REAUTHORIZATION_REQUIRED),
        (S.DEGRADED, None, T.CALL_DENIED, S.BLOCKED, E.CONNECTION_BLOCKED),
        (S.BLOCKED, None, T.PROBE_SUCCEEDED, S.ACTIVE, E.CONNECTION_UNBLOCKED),
        (
            S.REAUTHORIZATION_REQUIRED,
            None,
            T.CREDENTIALS_GIVEN,
            S.VERIFYING,
            E.CONNECTION_REAUTHORIZATION_STARTED,
        ),
        (S.REAUTHORIZATION_REQUIRED, None, T.PAUSE_ASKED, S.PAUSED, E.CONNECTION_PAUSED),
        (
            S.PAUSED,
            S.REAUTHORIZATION_REQUIRED,
            T.RESUME_ASKED,
            S.REAUTHORIZATION_REQUIRED,
            E.CONNECTION_RESUMED,
        ),
        (S.PAUSED, S.ACTIVE, T.DISCONNECT_ASKED, S.DISCONNECTING, None),
        (S.DISCONNECTING, None, T.DRAINED, S.DISCONNECTED, E.CONNECTION_DISCONNECTED),
        # what must change nothing
        (S.REAUTHORIZATION_REQUIRED, None, T.CALL_SUCCEEDED, None, None),
        (S.REAUTHORIZATION_REQUIRED, None, T.PROBE_SUCCEEDED, None, None),
        (S.ACTIVE, None, T.CALL_SUCCEEDED, None, None),
        (S.PENDING, None, T.PROBE_SUCCEEDED, None, None),
        (S.PAUSED, S.ACTIVE, T.AUTH_REFUSED, None, None),
        (S.PAUSED, S.ACTIVE, T.CREDENTIALS_GIVEN, None, None),
        (S.DISCONNECTED, None, T.CREDENTIALS_GIVEN, None, None),
        (S.BLOCKED, None, T.TRANSIENT_FAILURES, None, None),
    ],
)
def test_where_a_trigger_leads(
    state: State, prior: State | None, trigger: Trigger, target: State | None, event: EventType | None
) -> None:
    assert next_state(state, trigger, prior=prior) is target
    rule = rule_for(state, trigger, prior=prior)
    assert (None if rule is None else rule.event) is event


WHOLE = """
pending                            credentials_given     -> verifying: hold
reauthorization_required           credentials_given     -> verifying: connection.reauthorization_started
blocked                            credentials_given     -> verifying:
active                             credentials_given     -> verifying:
degraded                           credentials_given     -> verifying:
verifying<pending                  probe_succeeded       -> active: connection.activated post solves
verifying<reauthorization_required probe_succeeded       -> active: connection.reauthorized solves
verifying<active                   probe_succeeded       -> active: connection.reauthorized solves
verifying<degraded                 probe_succeeded       -> active: connection.reauthorized solves
verifying<blocked                  probe_succeeded       -> active: connection.unblocked solves
verifying<pending                  probe_refused         -> pending: connection.verification_failed !verification_failed
verifying<pending                  probe_denied          -> pending: connection.verification_failed !verification_failed
verifying<pending                  account_differs       -> pending: connection.verification_failed !verification_failed
verifying<active                   probe_refused         -> prior: connection.verification_failed !verification_failed
verifying<active                   probe_denied          -> prior: connection.verification_failed !verification_failed
verifying<active                   account_differs       -> prior: connection.verification_failed !verification_failed
verifying<degraded                 probe_refused         -> prior: connection.verification_failed !verification_failed
verifying<degraded                 probe_denied          -> prior: connection.verification_failed !verification_failed
verifying<degraded                 account_differs       -> prior: connection.verification_failed !verification_failed
verifying<reauthorization_required probe_refused         -> reauthorization_required: connection.reauthorization_failed !reauthorization_required
verifying<reauthorization_required probe_denied          -> blocked: connection.blocked !blocked
verifying<reauthorization_required account_differs       -> reauthorization_required: connection.reauthorization_failed !reauthorization_required
verifying<blocked                  probe_refused         -> blocked: connection.verification_failed !blocked
verifying<blocked                  probe_denied          -> blocked: connection.verification_failed !blocked
verifying<blocked                  account_differs       -> blocked: connection.verification_failed !blocked
verifying                          verification_deferred -> prior:
active                             transient_failures    -> degraded: connection.degraded
degraded                           call_succeeded        -> active: connection.recovered
active                             auth_refused          -> reauthorization_required: connection.reauthorization_required !reauthorization_required
degraded                           auth_refused          -> reauthorization_required: connection.reauthorization_required !reauthorization_required
blocked                            auth_refused          -> reauthorization_required: connection.reauthorization_required !reauthorization_required
active                             call_denied           -> blocked: connection.blocked !blocked
degraded                           call_denied           -> blocked: connection.blocked !blocked
blocked                            probe_succeeded       -> active: connection.unblocked solves
blocked                            call_succeeded        -> active: connection.unblocked solves
active                             pause_asked           -> paused: connection.paused
degraded                           pause_asked           -> paused: connection.paused
blocked                            pause_asked           -> paused: connection.paused
reauthorization_required           pause_asked           -> paused: connection.paused
paused                             resume_asked          -> prior: connection.resumed
pending                            disconnect_asked      -> disconnecting:
verifying                          disconnect_asked      -> disconnecting:
active                             disconnect_asked      -> disconnecting:
degraded                           disconnect_asked      -> disconnecting:
reauthorization_required           disconnect_asked      -> disconnecting:
blocked                            disconnect_asked      -> disconnecting:
paused                             disconnect_asked      -> disconnecting:
disconnecting                      drained               -> disconnected: connection.disconnected return solves
"""
"""`<`: where it came from. Behind the colon: the event, what becomes of its credits, the issue that opens."""


def written(rules: tuple[Rule, ...]) -> list[str]:
    """Each line once for each state that it names."""
    lines = []
    for rule in rules:
        target = "prior" if rule.target is Prior.STATE else rule.target
        effects = (
            rule.event,
            rule.credits and rule.credits.value,
            rule.raises and f"!{rule.raises}",
            "solves" if rule.solves else None,
        )
        does = " ".join([f"{rule.trigger} -> {target}:", *(effect for effect in effects if effect)])
        lines += [f"{rule.source}<{prior} {does}" for prior in rule.prior] or [f"{rule.source} {does}"]
    return sorted(lines)


def test_the_whole_table_is_what_is_written_here() -> None:
    assert written(table()) == sorted(" ".join(line.split()) for line in WHOLE.strip().splitlines())
    assert table() == TABLE


def test_the_diagram_shows_every_transition() -> None:
    lines = [line.strip() for line in connection_diagram().splitlines()]
    assert lines[:2] == ["stateDiagram-v2", "[*] --> pending"] and lines[-1] == "disconnected --> [*]"
    for rule in TABLE:
        if rule.target is Prior.STATE:
            assert (
                sum(
                    line.startswith(f"{rule.source} --> ") and line.endswith(f": {rule.trigger}")
                    for line in lines
                )
                > 1
            )
        else:
            assert f"{rule.source} --> {rule.target}: {rule.trigger}" in lines
