"""What is asked of a system, and what an answer to one question says of the others. Pure."""

from __future__ import annotations

import enum


class Operation(enum.StrEnum):
    """The calls whose health is kept apart: a read-only key answers every probe and refuses every push."""

    PROBE = "probe"
    PUSH = "push"
    PULL = "pull"


def proves(answered: Operation, failed: Operation | None) -> bool:
    """Whether a success of `answered` says that `failed` works again.

    Each proves itself. Work proves that a probe would pass, since it reaches the same system with the same
    credential; a probe proves nothing of the work, nor does one kind of work of the other. Everything proves
    what is not known (None).
    """
    return failed is None or failed is answered or failed is Operation.PROBE


def proved_by(answered: Operation) -> tuple[Operation, ...]:
    """Every operation that a success of `answered` says works."""
    return tuple(operation for operation in Operation if proves(answered, operation))
