"""Commands over MQTT: whose a topic is, where an answer may go, and how many requests a customer may make.
Pure.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from gateway.model.topics import IDENTIFIER

REPLY_BYTES = 512
BURST = 20.0
PER_SECOND = 5.0


class Verb(enum.StrEnum):
    """What can be asked."""

    STATUS = "status"
    SYNC = "sync"
    EXPLAIN = "explain"
    RECORDS = "records"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandTopic:
    """`{root}/customers/{customer}/commands/{verb}`; the verb may be one that there is not."""

    customer: str
    verb: str


def commands_filter(root: str) -> str:
    """What is subscribed."""
    return f"{root}/customers/+/commands/+"


def parse_topic(root: str, topic: str) -> CommandTopic | None:
    """None for a topic that is no command, or whose customer cannot be one."""
    levels = topic.removeprefix(f"{root}/").split("/") if topic.startswith(f"{root}/") else []
    match levels:
        case ["customers", customer, "commands", verb] if IDENTIFIER.fullmatch(customer):
            return CommandTopic(customer=customer, verb=verb)
        case _:
            return None


def may_reply_to(root: str, customer: str, topic: str) -> bool:
    """Whether an answer to this customer may be published there: below its own `responses/`, and nowhere
    else.

    Everything else under the root is state that others believe, and the gateway's user may write all of it.
    """
    below = f"{root}/customers/{customer}/responses/"
    if not topic.startswith(below) or len(topic.encode("utf-8", "replace")) > REPLY_BYTES:
        return False
    rest = topic.removeprefix(below)
    return all(rest.split("/")) and not any(
        character in "+#" or not character.isprintable() for character in rest
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """Requests that a customer may still make: `left` of BURST at `at_seconds` (monotonic), PER_SECOND more
    with each second.
    """

    left: float
    at_seconds: float


def take(allowance: Allowance | None, now_seconds: float) -> tuple[Allowance, float]:
    """What is left after one more request, and the seconds to wait for it: 0 where it is allowed (only then
    is it counted).
    """
    known = allowance or Allowance(left=BURST, at_seconds=now_seconds)
    left = min(BURST, known.left + max(0.0, now_seconds - known.at_seconds) * PER_SECOND)
    if left >= 1.0:
        return Allowance(left=left - 1.0, at_seconds=now_seconds), 0.0
    return Allowance(left=left, at_seconds=now_seconds), (1.0 - left) / PER_SECOND
