"""The table of states against what the product promises for each."""

from __future__ import annotations

import pytest

from gateway.model.connection import TABLE, Prior, State, Trigger, diagram, next_state, rule_for
from gateway.model.event import EventType

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


def test_the_diagram_shows_every_transition() -> None:
    lines = [line.strip() for line in diagram().splitlines()]
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
