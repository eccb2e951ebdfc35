"""What a partition knows of edge nodes of Sparkplug B: loaded when they are first heard of, stored with what
they sent, and asked for their births when something of them cannot be read.

It is the only one that writes of its nodes while it holds the lease of its partition, and each commit proves
that, so what it remembers is what is stored. A batch is read here when its turn to be committed has come:
everything before it is stored by then, and a message never meets a birth that a crash could take away again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import structlog

from gateway import bulkhead, clock, metrics
from gateway.ingest import sparkplug
from gateway.ingest.decode import Decoder
from gateway.ingest.sparkplug import Mail, TakenMessage
from gateway.model.errors import DecodeError
from gateway.payloads.formats.values import Reason
from gateway.payloads.sparkplug import wire
from gateway.payloads.sparkplug.node import Node
from gateway.settings import SparkplugSettings
from gateway.store import dead_messages
from gateway.store import sparkplug as store
from gateway.store.dead_messages import DeadMessage
from gateway.store.pool import Connection, Database
from gateway.store.sparkplug import Known, NodeKey

log = structlog.get_logger(__name__)

MAX_DEFINED = 500_000
"""Metrics of nodes that are remembered; of more those are loaded again that were not heard of for longest."""

MAX_NODES = 10_000
"""Nodes that are remembered, so that names which somebody makes up cost no more memory than that."""

MAX_ASKED = 100
"""Nodes that are asked for their births in one turn. The others have theirs next."""

TURN_SECONDS = 0.01
"""How long messages are read before others on the loop have their turn."""

MAX_INTERVAL_SECONDS = 3600.0

NOTHING = cast(wire.Payload, wire.PAYLOAD())
"""Stands for a payload that was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadMessage:
    """A message that waits for its batch to be read."""

    topic: str
    payload: bytes
    received_at: int
    is_retained: bool
    mail: Mail


@dataclass(slots=True)
class ReadMessages:
    """What a batch's messages of Sparkplug came to. `dead`: those that are dead letters, by digest."""

    taken: list[TakenMessage] = field(default_factory=list)
    dead: dict[bytes, DeadMessage] = field(default_factory=dict)
    healed: dict[bytes, None] = field(default_factory=dict)
    known: tuple[Known, ...] = ()

    async def store(self, connection: Connection) -> None:
        """In the transaction of the batch."""
        await store.store(connection, self.known)
        if self.healed:
            await dead_messages.remove(connection, self.healed)

    def leave_out(self, customers: Collection[str]) -> None:
        """Nothing is stored of these customers' nodes."""
        self.known = tuple(known for known in self.known if known.key[0] not in customers)

    def keep(self, topic: str, payload: bytes, refusal: DecodeError, customer: str) -> None:
        """Keeps a message as a dead letter."""
        self.dead[dead_messages.message_digest(topic, payload)] = DeadMessage(
            topic=topic, payload=payload, reason=refusal.reason, detail=refusal.detail, customer=customer
        )

    def heal(self, topic: str, payload: bytes) -> None:
        """It was a dead letter, of this batch or of one before."""
        digest = dead_messages.message_digest(topic, payload)
        if self.dead.pop(digest, None) is None:
            self.healed[digest] = None


@dataclass(slots=True)
class _BirthRequest:
    """When a node was asked for its birth, and how often without an answer. `since`: when something of it
    could not be read, None where all can.
    """

    topic: str
    since: float | None = None
    asked_monotonic: float | None = None
    times: int = 0


class Host:
    """Of one partition, for one term of its lease."""

    def __init__(self, settings: SparkplugSettings, database: Database) -> None:
        self._database = database
        self._reorder_seconds = settings.reorder_timeout.total_seconds()
        self._interval_seconds = settings.rebirth_interval.total_seconds()
        self._nodes: OrderedDict[NodeKey, Node] = OrderedDict()
        # what each node defines, and the sum: counting all of them again with each batch would cost as much
        # as all nodes, however few of them sent something
        self._sizes: dict[NodeKey, int] = {}
        self._size = 0
        self._asking: dict[NodeKey, _BirthRequest] = {}
        self.is_asking = asyncio.Event()
        """Set while a node is to be asked for its births: `ask` then, from time to time."""

    async def read(self, unread: Sequence[UnreadMessage], decoder: Decoder) -> ReadMessages:
        """Reads the messages of a batch in their order. Raises StoreError while nothing was read yet."""
        keys = {one.mail.node for one in unread}
        await self._load(keys)
        read = ReadMessages()
        touched: dict[NodeKey, Mail] = {}
        began = clock.monotonic()
        for one in unread:
            if clock.monotonic() - began > TURN_SECONDS:
                await asyncio.sleep(0)
                began = clock.monotonic()
            mail = one.mail
            if one.is_retained and mail.source.retained == "skip":
                continue
            touched[mail.node] = mail
            metrics.SPARKPLUG_MESSAGES.labels(mail.address.kind or "").inc()
            try:
                found = self._read(one, decoder)
            except DecodeError as error:
                read.keep(one.topic, one.payload, error, mail.customer)
                continue
            for taken in found:
                message = taken.arrival
                if taken.refusal is not None:
                    read.keep(message.topic, message.raw, taken.refusal, mail.customer)
                elif taken.was_held:
                    read.heal(message.topic, message.raw)
                decoder.tells(taken)
                # a payload is many times as long as its rows
                read.taken.append(replace(taken, skipped=(), arrival=replace(message, payload=NOTHING)))
        read.known = tuple(self._known(touched, decoder))
        self._notice(touched)
        self._trim(keys)
        return read

    def _read(self, one: UnreadMessage, decoder: Decoder) -> Sequence[TakenMessage]:
        """Raises DecodeError, and nothing else: a fault of ours is that message's, for the next is another
        node's.
        """
        mail = one.mail
        try:
            message = sparkplug.arrival(mail, one.topic, one.payload, one.received_at)
            return sparkplug.take(
                self._nodes[mail.node], mail, message, decoder.bounds, is_retained=one.is_retained
            )
        except DecodeError:
            raise
        except Exception as error:
            fault = bulkhead.note("decode", mail.source.source.topic, error)
            raise DecodeError(Reason.INTERNAL_ERROR, fault.text) from error

    async def _load(self, keys: Collection[NodeKey]) -> None:
        if missing := [key for key in keys if key not in self._nodes]:
            found = await store.load(self._database, missing)
            for key in missing:
                self._nodes[key] = found.get(key) or Node()
        for key in keys:
            self._nodes.move_to_end(key)

    def _known(self, touched: dict[NodeKey, Mail], decoder: Decoder) -> Iterable[Known]:
        """What is to be stored of the nodes; afterwards nothing of them is news."""
        for key, mail in touched.items():
            node = self._nodes[key]
            if not node.births.devices:
                continue  # nothing is known of it, and there is nothing to remember
            for device in node.births.changed:
                decoder.meets(mail, device)
            ids = {device: mail.device(device) for device in node.births.changed}
            yield Known(key=key, node=node, ids=ids)

    def settle(self, read: ReadMessages) -> None:
        """What was read is stored."""
        for known in read.known:
            known.node.births.changed.clear()
            known.node.births.defined.clear()

    def _trim(self, keys: Collection[NodeKey]) -> None:
        """Forgets what was not heard of for longest. What waits in memory goes with it: it is a dead letter,
        too.
        """
        for key in keys:
            size = self._nodes[key].births.weight
            self._size += size - self._sizes.get(key, 0)
            self._sizes[key] = size
        while self._size > MAX_DEFINED or len(self._nodes) > MAX_NODES:
            key = next(iter(self._nodes))
            if key in keys:
                return
            del self._nodes[key]
            self._size -= self._sizes.pop(key)

    # --- rebirths

    def _notice(self, touched: dict[NodeKey, Mail]) -> None:
        now = clock.monotonic()
        for key, mail in touched.items():
            node, asking = self._nodes[key], self._asking.get(key)
            if not node.wants_rebirth:
                if asking is not None:
                    asking.since, asking.times = None, min(asking.times, 1)
                continue
            if asking is None:
                asking = self._asking[key] = _BirthRequest(topic=mail.address.command_topic)
                self.is_asking.set()
            if asking.since is None:
                asking.since = now
                missing = node.next if node.is_patient else None
                log.info("ingest.sparkplug_gap", customer=key[0], node=key[1], missing=missing)
                metrics.SPARKPLUG_GAPS.inc()

    def ask(self, publish: Callable[[str, bytes], bool]) -> None:
        """Asks those nodes for their births that are due. A node that is silent is
        asked less and less often.
        """
        now, asked = clock.monotonic(), 0
        for key, asking in list(self._asking.items()):
            node = self._nodes.get(key)
            if asking.since is None or node is None:
                if asking.asked_monotonic is None or now - asking.asked_monotonic > self._interval_seconds:
                    del self._asking[key]
                continue
            if asked == MAX_ASKED or not self._is_due(node, asking, now):
                continue
            if not publish(asking.topic, wire.rebirth(clock.now_microseconds() // 1000)):
                return  # asked again on the next connection
            asking.asked_monotonic, asking.times, asked = now, asking.times + 1, asked + 1
            metrics.SPARKPLUG_REBIRTHS.inc()
            log.info("ingest.sparkplug_rebirth_asked", customer=key[0], node=key[1], times=asking.times)
        if not self._asking:
            self.is_asking.clear()

    def _is_due(self, node: Node, asking: _BirthRequest, now: float) -> bool:
        if asking.asked_monotonic is not None:
            wait = min(self._interval_seconds * 2 ** min(asking.times - 1, 16), MAX_INTERVAL_SECONDS)
            if now - asking.asked_monotonic < wait:
                return False
        return not node.is_patient or now - (asking.since or now) >= self._reorder_seconds
