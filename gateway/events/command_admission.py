"""Which commands are worked: each message that comes is ignored, dropped, refused or admitted, before
anything of it is read.

A customer may have so many commands waiting, and all of them together; what is more is dropped. How many it
may send in a time its allowance says (`gateway.model.command`); beyond that a command is answered with a
refusal. An answer goes below the customer's own topics only, so a command without such a Response Topic is
ignored.
"""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import dataclass

import aiomqtt
import structlog

from gateway import clock, metrics
from gateway.model.command import Allowance, Verb, may_reply_to, parse_topic, take
from gateway.model.errors import RequestRefused

log = structlog.get_logger(__name__)

REQUEST_BYTES = 64 << 10
MAX_WAITING = 256
MAX_WAITING_PER_CUSTOMER = 8
MAX_REMEMBERED = 10_000
"""Customers whose allowances, and whose warnings, are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmittedCommand:
    """A command that is to be answered. `refusal`: by what, where it is not done."""

    customer: str
    verb: str
    payload: bytes
    reply: str | None
    correlation: bytes | None
    request_id: str
    refusal: RequestRefused | None


class Admission:
    """Decides on messages of the topics below `root`, and counts those that wait for an answer."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._allowances: dict[str, Allowance] = {}
        self._waiting: Counter[str] = Counter()
        self._warned: set[str] = set()

    def begin(self) -> None:
        """A session begins: nothing waits."""
        self._waiting.clear()

    def admit(self, message: aiomqtt.Message) -> AdmittedCommand | None:
        """The request, perhaps to be refused; None for what cannot or will not be answered. Never waits,
        never raises for what a message holds.
        """
        topic = parse_topic(self._root, str(message.topic))
        if topic is None or not isinstance(message.payload, bytes | bytearray):
            count("", "ignored")
            return None
        customer, verb = topic.customer, topic.verb
        if message.retain:  # nobody asks now: it would be done again after every reconnection
            self.ignore(customer, verb, "retained", "publish commands without the retain flag")
            return None
        reply: str | None = getattr(message.properties, "ResponseTopic", None)
        if reply is None and verb != Verb.SYNC:
            self.ignore(customer, verb, "unanswerable", "give a Response Topic")
            return None
        if reply is not None and not may_reply_to(self._root, customer, reply):
            self.ignore(
                customer,
                verb,
                "unanswerable",
                f"the Response Topic has to lie below {self._root}/customers/{customer}/responses/",
            )
            return None
        if self._waiting[customer] >= MAX_WAITING_PER_CUSTOMER or self._waiting.total() >= MAX_WAITING:
            count(verb, "dropped")
            return None
        self._waiting[customer] += 1
        correlation: bytes | None = getattr(message.properties, "CorrelationData", None)
        payload = bytes(message.payload)
        refusal = self._refusal(customer, len(payload) + len(correlation or b""))
        return AdmittedCommand(
            customer=customer,
            verb=verb,
            payload=b"" if refusal else payload,
            reply=reply,
            correlation=correlation,
            request_id=secrets.token_hex(16),
            refusal=refusal,
        )

    def _refusal(self, customer: str, size: int) -> RequestRefused | None:
        if size > REQUEST_BYTES:
            return RequestRefused("request.too_large", f"{size} bytes; at most {REQUEST_BYTES} are taken")
        if len(self._allowances) >= MAX_REMEMBERED:
            self._allowances.clear()
        self._allowances[customer], wait = take(self._allowances.get(customer), clock.monotonic())
        return (
            RequestRefused(
                "gateway.overloaded", "too many requests of this customer", retry_after=round(wait, 3)
            )
            if wait
            else None
        )

    def ignore(self, customer: str, verb: str, outcome: str, advice: str) -> None:
        """Counts a command that nobody answers; of each customer the first is logged, with what to do."""
        count(verb, outcome)
        if customer not in self._warned and len(self._warned) < MAX_REMEMBERED:
            self._warned.add(customer)
            log.warning("events.command_ignored", customer=customer, outcome=outcome, advice=advice)

    def answered(self, request: AdmittedCommand) -> None:
        """It waits no more."""
        self._waiting[request.customer] -= 1
        self._waiting += Counter()  # forgets those at zero


def count(verb: str, outcome: str) -> None:
    """Counts a command by its outcome."""
    metrics.COMMANDS.labels(verb if verb in set(Verb) else "other", outcome).inc()
