"""Finds the source that takes a topic, and makes ids of the names that topic or payload say.

A customer is named by its id, which must be known. A device may have any printable name; its id is made of
that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gateway.model.errors import DecodeError
from gateway.model.names import MAX_NAME, identifier
from gateway.model.topics import IDENTIFIER, Route, Source, route
from gateway.payloads.formats.values import Reason

MAX_TOPIC = 4096
"""Characters that a topic may have. Names are shorter; and to match a template with a very long topic costs
much.
"""


class Naming:
    """Names by the topics of these sources. `customers` are those that are known; None: any is. `former`
    customers are configured no more and their filters are unsubscribed, but their queued messages are still
    taken.
    """

    def __init__(
        self, sources: Sequence[Source], customers: Collection[str] | None, former: Collection[str]
    ) -> None:
        self._sources = sources
        self._customers = customers
        self._former_customers = former

    def route(self, topic: str) -> Route:
        """The source that takes a topic, and the names in the topic as they are. Raises DecodeError."""
        if len(topic) > MAX_TOPIC:
            raise DecodeError(
                Reason.UNMATCHED_TOPIC, f"a topic of {len(topic)} characters; at most {MAX_TOPIC} are taken"
            )
        found = route(topic, self._sources)
        if found is None:
            raise DecodeError(Reason.UNMATCHED_TOPIC, "no source matches the topic; see telemetry.sources")
        return found

    def identify(self, found: Route) -> Route:
        """The same route with ids in place of names. Raises DecodeError for a name that is not valid and for
        a customer that is not known.
        """
        customer = found.customer
        # Only where the customer is a level of the topic it has filters of its own, which end with it.
        is_former = customer in self._former_customers and self._sources[found.place].is_divided
        if customer is not None and not is_former:
            customer = self.customer(customer)
        return Route(
            customer=customer,
            device=None if found.device is None else device_id(found.device),
            metric=None if found.metric is None else found.metric.replace("/", "."),
            format=found.format,
            place=found.place,
            is_ignored=found.is_ignored,
        )

    def customer(self, customer: str) -> str:
        """The id itself, where it is one of a known customer. Raises DecodeError."""
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
    """The id of a device with this name. Raises DecodeError for a name that is not valid."""
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise DecodeError(
            Reason.INVALID_IDENTIFIER, f"device {name[:70]!r}: 1 to {MAX_NAME} printable characters"
        )
    return identifier(name)


def title_of(name: str, device: str) -> str | None:
    """The name of a device, where it differs from its id; else None."""
    return None if name == device else name
