"""What becomes of each reading of a batch by its outcome. Decides nothing of whole batches, and stores
nothing.
"""

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

PATIENT = 3
"""Times that a reading is sent again as soon as the system allows."""

MAX_WAIT_SECONDS = 300.0


@dataclass(slots=True, kw_only=True)
class JudgedBatch:
    """`words`: what was said last of each meter that has to wait. `compared`: the meters with a deadband
    whose reading was refused, since those behind it were compared with it. `superseded`: how many the system
    ignored for a later position that it holds.
    """

    results: BatchResults
    words: dict[str, str] = field(default_factory=dict)
    compared: set[str] = field(default_factory=set)
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
    """One outcome for each reading, in the order of the batch."""
    results, waiting = BatchResults(ask_in_seconds=unknown_wait_seconds), dict[str, float]()
    judged = JudgedBatch(results=results)
    for reading, outcome in zip(batch.readings, outcomes, strict=True):
        due, meter = due_by_key[reading.key], reading.meter
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
                    judged.compared.add(meter)
            case Step.WAIT | Step.RECONCILE | Step.SEND_AGAIN | Step.OVERTAKEN:
                if step is not Step.OVERTAKEN:
                    results.retried.append(due)
                seconds = _wait_seconds(outcome, due.attempts, unknown_wait_seconds)
                waiting[meter] = max(waiting.get(meter, 0.0), seconds)
                judged.words[meter] = (
                    outcome.message if isinstance(outcome, Retry | Unknown | Superseded) else ""
                )
    results.waiting = waiting
    superseded = [outcome for outcome in outcomes if isinstance(outcome, Superseded)]
    judged.superseded = len(superseded)
    results.passed = max((o.position for o in superseded if o.position is not None), default=None)
    return judged


def delivered_from(due: DueWindow, reading: Reading, remote_id: str | None) -> Delivered:
    """The system holds this reading now."""
    return Delivered(
        meter=reading.meter,
        window_start=reading.window_start,
        value=reading.value,
        remote_id=remote_id,
        modified=reading.modified,
        due=due,
    )


def _wait_seconds(outcome: Outcome, attempts: int, unknown_wait_seconds: float) -> float:
    """As the system asks, and longer each time from the fourth on: it may say "at once" for ever."""
    match outcome:
        case Retry(after_seconds=seconds):
            asked = seconds
        case Superseded(position=int()):
            return 0.0
        case _:
            asked = unknown_wait_seconds
    return max(asked, 0.0 if attempts < PATIENT else min(MAX_WAIT_SECONDS, 2.0 ** min(attempts, 32)))


def _refusal(due: DueWindow, outcome: Outcome) -> Refusal:
    match outcome:
        case Rejected(code=code, message=message):
            return Refusal(due=due, reason=code, detail=message)
        case Retry(message=message) | Unknown(message=message):
            return Refusal(due=due, reason="too_many_attempts", detail=message)
        case _:
            raise AssertionError(outcome)
