"""The table of states against what the product promises for each."""

from __future__ import annotations

import pytest

from gateway.model.connection import TABLE, State, Trigger, diagram, next_state


@pytest.mark.parametrize(
    ("state", "trigger", "target"),
    [
        (State.PENDING, Trigger.CREDENTIALS_GIVEN, State.VERIFYING),
        (State.VERIFYING, Trigger.PROBE_SUCCEEDED, State.ACTIVE),
        (State.VERIFYING, Trigger.PROBE_REFUSED, State.REAUTHORIZATION_REQUIRED),
        (State.VERIFYING, Trigger.PROBE_DENIED, State.BLOCKED),
        (State.ACTIVE, Trigger.TRANSIENT_FAILURES, State.DEGRADED),
        (State.DEGRADED, Trigger.CALL_SUCCEEDED, State.ACTIVE),
        (State.ACTIVE, Trigger.AUTH_REFUSED, State.REAUTHORIZATION_REQUIRED),
        (State.DEGRADED, Trigger.CALL_DENIED, State.BLOCKED),
        (State.BLOCKED, Trigger.PROBE_SUCCEEDED, State.ACTIVE),
        (State.REAUTHORIZATION_REQUIRED, Trigger.CREDENTIALS_GIVEN, State.VERIFYING),
        # what must change nothing
        (State.REAUTHORIZATION_REQUIRED, Trigger.CALL_SUCCEEDED, None),
        (State.REAUTHORIZATION_REQUIRED, Trigger.PROBE_SUCCEEDED, None),
        (State.ACTIVE, Trigger.CALL_SUCCEEDED, None),
        (State.PENDING, Trigger.PROBE_SUCCEEDED, None),
        (State.DISCONNECTED, Trigger.CREDENTIALS_GIVEN, None),
        (State.BLOCKED, Trigger.TRANSIENT_FAILURES, None),
    ],
)
def test_where_a_trigger_leads(state: State, trigger: Trigger, target: State | None) -> None:
    assert next_state(state, trigger) is target


def test_the_diagram_shows_every_transition() -> None:
    lines = [line.strip() for line in diagram().splitlines()]
    assert lines[:2] == ["stateDiagram-v2", "[*] --> pending"]
    assert lines[2:] == [f"{state} --> {target}: {trigger}" for (state, trigger), target in TABLE.items()]
