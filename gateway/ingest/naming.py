"""Whose a message is: the source that takes its topic, and the names that topic or payload say, made ids.

A customer is taken by its id, and only when it is known; a device may have any printable name, and its id is
made of that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gateway.model.errors import DecodeError
from gateway.model.names import MAX_NAME, identifier
from gateway.model.topics import IDENTIFIER, Route, Source, route
from gateway.payloads.formats.values import Reason

MAX_TOPIC = 4096
"""Characters of a topic: what its fields can say is shorter, and templates try a long one in many ways."""


class Naming:
    """By the topics of these sources. `customers`: who is known, None where anybody is; `former`: whose own
    filters are unsubscribed, and whose queued messages are taken all the same.
    """

    def __init__(
        self, sources: Sequence[Source], customers: Collection[str] | None, former: Collection[str]
    ) -> None:
        self._sources = sources
        self._customers = customers
        self._former_customers = former

    def route(self, topic: str) -> Route:
        """The source that takes a topic, and the names that it says, as they are. Raises DecodeError."""
        if len(topic) > MAX_TOPIC:
            raise DecodeError(
                Reason.UNMATCHED_TOPIC, f"a topic of {len(topic)} characters; at most {MAX_TOPIC} are taken"
            )
        found = route(topic, self._sources)
        if found is None:
            raise DecodeError(Reason.UNMATCHED_TOPIC, "no source matches the topic; see telemetry.sources")
        return found

    def identify(self, found: Route) -> Route:
        """Its names made ids. Raises DecodeError for one that is no name, or no customer that is known."""
        # Only where the customer is a level of the topic it has filters of its own, which end with it.
        leaves = found.customer in self._former_customers and self._sources[found.place].is_divided
        return Route(
            customer=found.customer if found.customer is None or leaves else self.customer(found.customer),
            device=None if found.device is None else device_id(found.device),
            metric=None if found.metric is None else found.metric.replace("/", "."),
            format=found.format,
            place=found.place,
            is_ignored=found.is_ignored,
        )

    def customer(self, customer: str) -> str:
        """The customer, known by this id. Raises DecodeError."""
        if not IDENTIFIER.fullmatch(customer):
            raise DecodeError(
                Reason.INVALID_IDENTIFIER,
                f"customer {customer[:70]!r}: letters, digits and . _ -, at most 64, the first a letter or"
                " digit",
            )
        if self._customers is not None and customer not in self._customers:
            raise DecodeError(Reason.UNKNOWN_CUSTOMER, f"customer {customer!r} is not listed in customers")
        return customer


def device_id(name: str) -> str:
    """The id of a device by its name. Raises DecodeError for what is no name."""
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise DecodeError(
            Reason.INVALID_IDENTIFIER, f"device {name[:70]!r}: 1 to {MAX_NAME} printable characters"
        )
    return identifier(name)


def title_of(name: str, device: str) -> str | None:
    """The name that a person gave, where the id is not the same."""
    return None if name == device else name
