"""The one decision about an outcome, as a table."""

from __future__ import annotations

import pytest

from gateway.model.outcome import (
    Accepted,
    Duplicate,
    Outcome,
    Rejected,
    Retry,
    Step,
    Superseded,
    Unknown,
    decide,
)

RETRY = Retry(after_seconds=1, message="locked")
UNKNOWN = Unknown(message="?")


@pytest.mark.parametrize(
    ("outcome", "attempts", "can_find", "step"),
    [
        (Accepted(), 1, True, Step.DELIVERED),
        (Accepted(), 99, False, Step.DELIVERED),
        (Duplicate(), 1, False, Step.DELIVERED),
        (Rejected(code="x", message="no"), 1, True, Step.DEAD_LETTER),
        (RETRY, 1, True, Step.WAIT),
        (RETRY, 11, False, Step.WAIT),
        (RETRY, 12, True, Step.DEAD_LETTER),
        (UNKNOWN, 1, True, Step.RECONCILE),
        (UNKNOWN, 11, False, Step.SEND_AGAIN),
        (UNKNOWN, 12, True, Step.DEAD_LETTER),
        (UNKNOWN, 13, False, Step.DEAD_LETTER),
        (Superseded(), 1, True, Step.OVERTAKEN),
        (Superseded(position=7), 99, False, Step.OVERTAKEN),
    ],
)
def test_an_outcome_becomes_one_step(outcome: Outcome, attempts: int, can_find: bool, step: Step) -> None:
    assert decide(outcome, attempts=attempts, max_attempts=12, can_find=can_find, others_pass=True) is step


@pytest.mark.parametrize("outcome", [RETRY, UNKNOWN])
@pytest.mark.parametrize("attempts", [1, 12, 10_000])
def test_while_nothing_passes_nothing_is_parked(outcome: Outcome, attempts: int) -> None:
    steps = {
        decide(outcome, attempts=attempts, max_attempts=12, can_find=can_find, others_pass=False)
        for can_find in (True, False)
    }
    assert Step.DEAD_LETTER not in steps
