"""The subscriptions of one connection: sends SUBSCRIBE and UNSUBSCRIBE, and judges the answers.

At the start of a connection the `stale` filters are unsubscribed, then the wanted ones are subscribed, then
the optional ones; `ready` is set when all is granted. Later `subscribe` and `unsubscribe` change what the
live connection holds. Filters that overlap are subscribed one by one, each with an identifier: by these a
message that comes several times is taken once (`gateway.model.subscriptions`). Packets leave through `write`:
no I/O here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import mqtt5

from gateway.ingest.framing import MalformedPacket
from gateway.model.errors import BrokerRefused
from gateway.model.subscriptions import Copies, copies_of

STALE_ID, OPTIONAL_ID, UNSUBSCRIBE_ID, SUBSCRIBE_ID = 2, 3, 4, 10
"""Packet ids. Filters that overlap are subscribed one by one, from SUBSCRIBE_ID on."""

DROPPED_TOPIC = "$SYS/broker/publish/messages/dropped"
NO_IDENTIFIERS = (
    "the broker has no subscription identifiers, and filters of telemetry.sources overlap: a message could"
    " come twice"
)


class QosRefused(ConnectionError):
    """The broker grants our subscriptions at QoS 0 only: what it sends could be lost,
    and nobody would know.
    """


class OptionalRefused(ConnectionError):
    """The broker ended the connection over a subscription that we can do without
    (rumqttd does, over `$SYS`).
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """The client id of a session, and what it subscribes. `stale` filters are unsubscribed; the broker may
    refuse `optional` ones. Where `is_lasting` is False the session ends with its connection. `on_accepted` is
    called when the broker has accepted us, before the first message can come. `state_topic`: where the
    session tells that a Sparkplug host application lives; None where it tells nothing.
    """

    client_id: str
    partition: int
    filters: tuple[str, ...]
    stale: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    is_lasting: bool = True
    on_accepted: Callable[[], None] = lambda: None
    state_topic: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """The filters that were asked for, in one SUBSCRIBE or one for each, and the answers by packet id."""

    filters: tuple[str, ...]
    copies: Copies | None
    count: int
    granted: dict[int, mqtt5.SubAckPacket] = field(default_factory=dict)


class Subscriptions:
    """The subscriptions of one connection. `ready` is done when the broker has granted what was wanted at the
    start; it fails with BrokerRefused, QosRefused, OptionalRefused or ConnectionError.
    """

    def __init__(
        self,
        subscription: Subscription,
        *,
        allow_qos0: bool,
        write: Callable[[bytes], object],
        end: Callable[[str], None],
    ) -> None:
        """`write` sends packets; `end` ends the connection, and takes the reason."""
        self._subscription = subscription
        self._allow_qos0 = allow_qos0
        self._write = write
        self._end = end
        self._filters = subscription.filters
        self.copies = copies_of(subscription.filters)
        """Tells which copy of a message is taken, by the identifiers in force; None where none comes twice.
        """
        self._has_identifiers = True
        self._request: _Request | None = None
        self._subscribed: asyncio.Future[None] | None = None
        self._unsubscribed: asyncio.Future[tuple[int, ...]] | None = None
        self._asks_optional = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(self, *, has_identifiers: bool) -> None:
        """The broker has accepted us. `has_identifiers`: whether it has subscription identifiers."""
        self._has_identifiers = has_identifiers
        if self.copies is not None and not has_identifiers:
            self._refuse(NO_IDENTIFIERS)
            return
        if self._subscription.stale:  # before the SUBSCRIBE, whose SUBACK then says that both are done
            self._write(mqtt5.UnsubscribePacket(STALE_ID, list(self._subscription.stale)).write())
        if self._filters:
            self._ask(self._filters, self.copies)
        else:  # a partition without customers; there is no SUBSCRIBE of nothing
            self._all_granted()

    def refuse(self, why: str) -> None:
        """The broker refuses us for good."""
        if not self.ready.done():
            self.ready.set_exception(BrokerRefused(why))

    def lost(self, reason: str) -> None:
        """The connection is gone: tells whoever waits."""
        if not self.ready.done():
            kind = OptionalRefused if self._asks_optional else ConnectionError
            self.ready.set_exception(kind(reason))
            self.ready.exception()  # marks it as retrieved: asyncio logs nothing where nobody waits
        for waiting in (self._subscribed, self._unsubscribed):
            if waiting is not None and not waiting.done():
                waiting.set_exception(ConnectionError(reason))

    async def subscribe(self, filters: tuple[str, ...]) -> None:
        """Subscribes these on the live connection, beside what it holds; returns when they are granted.

        Where filters overlap, now or before, all are subscribed again: an identifier belongs to the whole
        list. One that stayed from an earlier list would be taken for one of the new list. Raises
        BrokerRefused where the broker grants less than is needed, and ConnectionError where the connection
        ends meanwhile.
        """
        if filters == self._filters:
            return
        copies = copies_of(filters)
        if copies is not None and not self._has_identifiers:
            raise BrokerRefused(NO_IDENTIFIERS)
        wanted = filters
        if copies is None and self.copies is None:
            wanted = tuple(one for one in filters if one not in self._filters)
        self._filters = ()  # where this is refused nobody knows what is held, so the next change asks for all
        if wanted:
            self._subscribed = asyncio.get_running_loop().create_future()
            try:
                self._ask(wanted, copies)
                await self._subscribed
            finally:
                self._subscribed = None
        self._filters, self.copies = filters, copies

    async def unsubscribe(self, stale: Sequence[str]) -> tuple[str, ...]:
        """Unsubscribes these filters, the last one first: of filters that overlap the first one takes the
        message, so it is held longest. Returns, at the UNSUBACK, the filters that the broker refuses to
        unsubscribe. Raises ConnectionError.
        """
        patterns = list(reversed(stale))
        self._unsubscribed = asyncio.get_running_loop().create_future()
        self._write(mqtt5.UnsubscribePacket(UNSUBSCRIBE_ID, patterns).write())
        codes = await self._unsubscribed
        return tuple(pattern for pattern, code in zip(patterns, codes, strict=False) if code >= 128)

    def suback(self, packet: mqtt5.SubAckPacket) -> None:
        """Takes the answer to a SUBSCRIBE. Raises MalformedPacket."""
        if packet.packet_id == OPTIONAL_ID:
            self._asks_optional = False
            self._is_ready()
            return
        request = self._request
        if request is None:
            raise MalformedPacket("a SUBACK that answers no SUBSCRIBE")
        # Copies that were sent before this SUBACK have identifiers of the former list, those after it of the
        # new list.
        self.copies = request.copies
        request.granted[packet.packet_id] = packet
        if len(request.granted) < request.count:
            return
        self._request = None
        codes = [code for _, granted in sorted(request.granted.items()) for code in granted.reason_codes]
        if len(codes) != len(request.filters):
            raise MalformedPacket("a SUBACK that does not answer each filter")
        pairs = list(zip(request.filters, codes, strict=True))
        refused = [f"{pattern} ({code.name})" for pattern, code in pairs if code.value >= 128]
        lesser = [pattern for pattern, code in pairs if code.value < 1]
        if refused:
            self._refuse(f"the broker refused to subscribe {', '.join(refused)}; check the broker's ACL")
        elif lesser and not self._allow_qos0:
            self._grants_too_little(f"the broker grants QoS 0 only for {', '.join(lesser)}")
        else:
            self._all_granted()

    def unsuback(self, packet: mqtt5.UnsubAckPacket) -> None:
        """Takes the answer to an UNSUBSCRIBE. The answer to that of `begin` is not needed."""
        waiting = self._unsubscribed
        if packet.packet_id == UNSUBSCRIBE_ID and waiting is not None and not waiting.done():
            waiting.set_result(tuple(code.value for code in packet.reason_codes))

    def _ask(self, filters: Sequence[str], copies: Copies | None) -> None:
        """Sends one SUBSCRIBE for all filters, or, where they overlap, one for each with its identifier."""
        wanted = [_filter(pattern) for pattern in filters]
        if copies is None:
            self._request = _Request(filters=tuple(filters), copies=copies, count=1)
            self._write(mqtt5.SubscribePacket(SUBSCRIBE_ID, wanted).write())
            return
        self._request = _Request(filters=tuple(filters), copies=copies, count=len(wanted))
        self._write(
            b"".join(
                mqtt5.SubscribePacket(SUBSCRIBE_ID + place, [one], subscription_id=number).write()
                for place, (one, number) in enumerate(zip(wanted, copies.ids.values(), strict=True))
            )
        )

    def _all_granted(self) -> None:
        if self._subscribed is not None:
            self._subscribed.set_result(None)
        elif self._subscription.optional and not self.ready.done():
            self._asks_optional = True
            wanted = [_filter(pattern) for pattern in self._subscription.optional]
            self._write(mqtt5.SubscribePacket(OPTIONAL_ID, wanted).write())
        else:
            self._is_ready()

    def _grants_too_little(self, why: str) -> None:
        if self._subscribed is not None:
            self._subscribed.set_exception(BrokerRefused(why))
            return
        if not self.ready.done():
            self.ready.set_exception(QosRefused(why))
        self._end(why)

    def _refuse(self, why: str) -> None:
        if self._subscribed is not None:  # a later change: the connection goes on with what it held before
            self._subscribed.set_exception(BrokerRefused(why))
            return
        self.refuse(why)
        self._end("a subscription was refused")

    def _is_ready(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)


def _filter(pattern: str) -> mqtt5.TopicFilter:
    """A filter whose messages have the retain flag only where the broker had them retained before, not where
    a device sets it on every live message.

    Always of QoS 1: RabbitMQ keeps what a persistent session subscribes at QoS 0 in a queue on one node. With
    that node gone no other node resumes the session, although all have its queue of QoS 1.
    """
    return mqtt5.TopicFilter(
        pattern,
        max_qos=mqtt5.QoS.AT_LEAST_ONCE,
        retain_as_published=False,
        retain_handling=mqtt5.RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS,
    )
