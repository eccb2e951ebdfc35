"""Judges the outcome of each reading of a batch. It does not judge whole batches, and stores nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.model.delivery import DueWindow, Refusal
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
from gateway.model.reading import Batch, Reading
from gateway.store.deliveries import BatchResults, Delivered

QUICK_ATTEMPTS = 3
"""So many times a reading is sent again as soon as the system allows; after that with growing waits."""

MAX_WAIT_SECONDS = 300.0


@dataclass(slots=True, kw_only=True)
class JudgedBatch:
    """What became of the readings of a batch. `waiting`: the meters that have to wait, with what the system
    said last of each. `references_refused`: meters with a deadband of which a reading was refused: later
    readings were compared with it. `superseded`: how many readings the system ignored, for it holds a later
    position.
    """

    results: BatchResults
    waiting: dict[str, str] = field(default_factory=dict)
    references_refused: set[str] = field(default_factory=set)
    superseded: int = 0


def judge(
    batch: Batch,
    outcomes: Sequence[Outcome],
    due_by_key: Mapping[str, DueWindow],
    *,
    max_attempts: int,
    can_find: bool,
    others_pass: bool,
    unknown_wait_seconds: float,
) -> JudgedBatch:
    """`outcomes` has one for each reading, in the order of the batch."""
    results = BatchResults(ask_in_seconds=unknown_wait_seconds)
    wait_seconds = dict[str, float]()  # by meter
    judged = JudgedBatch(results=results)
    for reading, outcome in zip(batch.readings, outcomes, strict=True):
        due = due_by_key[reading.key]
        meter = reading.meter
        if isinstance(outcome, Unknown | Superseded):
            results.doubted.append(reading)
        step = decide(
            outcome,
            attempts=due.attempts + 1,
            max_attempts=max_attempts,
            can_find=can_find,
            others_pass=others_pass,
        )
        match step:
            case Step.DELIVERED:
                remote_id = outcome.remote_id if isinstance(outcome, Accepted | Duplicate) else None
                results.delivered.append(delivered_from(due, reading, remote_id))
            case Step.DEAD_LETTER:
                results.dead.append(_refusal(due, outcome))
                if due.deadband > 0:
                    judged.references_refused.add(meter)
            case Step.WAIT | Step.RECONCILE | Step.SEND_AGAIN | Step.OVERTAKEN:
                if step is not Step.OVERTAKEN:
                    results.retried.append(due)
                seconds = _wait_seconds(outcome, due.attempts, unknown_wait_seconds)
                wait_seconds[meter] = max(wait_seconds.get(meter, 0.0), seconds)
                judged.waiting[meter] = (
                    outcome.message if isinstance(outcome, Retry | Unknown | Superseded) else ""
                )
    results.waiting = wait_seconds
    superseded = [outcome for outcome in outcomes if isinstance(outcome, Superseded)]
    judged.superseded = len(superseded)
    positions = [outcome.position for outcome in superseded if outcome.position is not None]
    results.position_held = max(positions, default=None)
    return judged


def delivered_from(due: DueWindow, reading: Reading, remote_id: str | None) -> Delivered:
    """The record that the system holds this reading now."""
    return Delivered(
        meter=reading.meter,
        window_start=reading.window_start,
        value=reading.value,
        remote_id=remote_id,
        modified=reading.modified,
        due=due,
    )


def _wait_seconds(outcome: Outcome, attempts: int, unknown_wait_seconds: float) -> float:
    """How long a meter waits: as long as the system asks, and from the fourth attempt on longer each time,
    for it may ask for no wait again and again.
    """
    match outcome:
        case Retry(after_seconds=seconds):
            asked = seconds
        case Superseded(position=int()):
            return 0.0
        case _:
            asked = unknown_wait_seconds
    if attempts < QUICK_ATTEMPTS:
        return max(asked, 0.0)
    return max(asked, min(MAX_WAIT_SECONDS, 2.0 ** min(attempts, 32)))


def _refusal(due: DueWindow, outcome: Outcome) -> Refusal:
    match outcome:
        case Rejected(code=code, message=message):
            return Refusal(due=due, reason=code, detail=message)
        case Retry(message=message) | Unknown(message=message):
            return Refusal(due=due, reason="too_many_attempts", detail=message)
        case _:
            raise AssertionError(outcome)
