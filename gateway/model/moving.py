"""Moving a customer between gateways: the marks that divide its messages between the two, and the codes by
which one says that its part is done.

A mark is an empty message, which says nothing to anybody, on a topic of the customer's own. A session gets it
behind everything that its filter was sent before, so what was queued for the session by then is committed
once the mark is seen.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from gateway.model.topics import Source

MARK = "fieldgate-move-"
"""How the levels of a mark's topic begin that stand for a device or a metric."""

_FIELD = re.compile(r"\{[^{}]*\}")


class MoveStage(StrEnum):
    """What a gateway's database says of a customer that moves; no row: it never did."""

    EXPECTED = "expected"
    """Its messages are taken here, and nothing else of it is here yet."""
    ARRIVED = "arrived"
    """It is in force here."""
    LEAVING = "leaving"
    """It is about to be taken away; everything still works."""
    LEFT = "left"
    """Nothing of it is worked on here, and everything is kept."""
    GONE = "gone"
    """Nothing of it is here any more."""


HERE = frozenset({MoveStage.EXPECTED, MoveStage.ARRIVED, MoveStage.LEAVING})
AWAY = frozenset({MoveStage.LEFT, MoveStage.GONE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """What overrules the configured customers."""

    here: frozenset[str] = frozenset()
    away: frozenset[str] = frozenset()
    expected: frozenset[str] = frozenset()
    """Of those here: who is to be imported still."""

    def refusal(self, customer: str) -> str | None:
        """Why no connection of the customer is made here; None where one may be."""
        if customer in self.away:
            return f"customer {customer!r} has moved to another gateway: make its connections there"
        return expected_refusal(customer) if customer in self.expected else None

    def among(self, configured: Sequence[str]) -> tuple[str, ...]:
        """The customers whose messages are taken: those that moved in behind the others."""
        kept = tuple(customer for customer in configured if customer not in self.away)
        return (*kept, *sorted(self.here - {*kept}))


def expected_refusal(customer: str) -> str:
    """What whoever makes a connection of an expected customer is told. The import brings connections by their
    names, and is refused where one is taken.
    """
    return (
        f"customer {customer!r} is expected from another gateway, and its connections come with"
        " `fieldgate customer import`: make others once it has arrived"
    )


def topics(sources: Iterable[Source], customer: str, move: str) -> list[str]:
    """A topic for each filter by which messages of the customer come and that takes more than one topic."""
    name, found = MARK + move, list[str]()
    for source in sources:
        if not source.is_divided and source.customer != customer:
            continue
        levels = []
        for level in source.levels:
            if level.rest is not None:
                # a topic of Sparkplug says a type and a node; one that no payload follows is no message of it
                levels += ["NDATA", name] if source.format == "sparkplug_b" else [name]
            else:
                levels.append(_FIELD.sub(name, level.text.replace("{customer}", customer)))
        topic = "/".join(levels)
        if name in topic and topic not in found:
            found.append(topic)
    return found


def shared(sources: Iterable[Source]) -> list[str]:
    """Topics of sources whose customer is said by the payload, or by a part of a level: several customers
    have them together.
    """
    return [source.topic for source in sources if not source.is_divided and source.customer is None]


def code(stage: MoveStage, customer: str, move: str) -> str:
    """What one gateway says, and the other is told by whoever moves the customer."""
    whole = f"{stage}/{customer}/{move}"
    return f"{move}-{hashlib.blake2b(whole.encode(), digest_size=4).hexdigest()}"


def move_of(given: str, stage: MoveStage, customer: str) -> str | None:
    """The move that a code is of; None where it says nothing of this customer and stage."""
    move = given.strip().partition("-")[0]
    return move if given.strip() == code(stage, customer, move) else None
