"""What a system said of one reading, and the one decision about what happens next."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import assert_never


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The system has it now. `remote_id` where it names what it made."""

    remote_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """The system had it already: delivered."""

    remote_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """The system will never take it. `code` is the system's own code or a slug; `message` its own words."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Not now (a locked meter, a timestamp still in the future): again after `after_seconds`, this meter
    only.
    """

    after_seconds: float
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """Sent, and no definite answer: find it before sending it again."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Superseded:
    """Not taken: the system holds this key with a later `position` than ours, None where it does not say
    which.
    """

    position: int | None = None
    message: str = "the system holds a later reading"


Outcome = Accepted | Duplicate | Rejected | Retry | Unknown | Superseded


class Step(enum.Enum):
    """What happens to a due window after a push."""

    DELIVERED = "delivered"
    DEAD_LETTER = "dead_letter"
    WAIT = "wait"
    RECONCILE = "reconcile"
    SEND_AGAIN = "send_again"
    OVERTAKEN = "overtaken"


def decide(outcome: Outcome, *, attempts: int, max_attempts: int, can_find: bool, others_pass: bool) -> Step:
    """The only place where an outcome becomes a step. `attempts` counts this one.

    An unknown outcome is reconciled where the system can be asked, otherwise sent again (at least once). A
    reading that waits or gets no answer too often is a dead letter with the system's last words, but only
    where others pass in the same run: a system that has every reading wait is an outage, and an outage parks
    nothing. A reading that was superseded shows that our lease is lost, or that our clock fell behind: it is
    sent again past the position that the system holds, if it is still ours to send.
    """
    parks = attempts >= max_attempts and others_pass
    match outcome:
        case Accepted() | Duplicate():
            return Step.DELIVERED
        case Rejected():
            return Step.DEAD_LETTER
        case Retry():
            return Step.DEAD_LETTER if parks else Step.WAIT
        case Unknown():
            if parks:
                return Step.DEAD_LETTER
            return Step.RECONCILE if can_find else Step.SEND_AGAIN
        case Superseded():
            return Step.OVERTAKEN
        case _:
            assert_never(outcome)
