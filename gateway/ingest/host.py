"""The host keeps what a partition knows of edge nodes of Sparkplug B. It loads a node when it first hears of
it, stores what it learns with the samples, and asks a node for its births when something of it cannot be
read.

While its partition's lease is held nobody else writes of these nodes, and each commit proves the lease: so
what is in memory is what is stored. A batch is read when its turn to be committed has come. Everything before
it is stored by then, so no message is read by a birth that a crash could take away again.
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
from gateway.ingest.sparkplug import NodeTopic, TakenMessage
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
"""Metrics of nodes that are kept in memory. Beyond that the nodes that were not heard of for longest are
forgotten, and loaded again when they are.
"""

MAX_NODES = 10_000
"""Nodes that are kept in memory, so that names which somebody makes up cost no more than that."""

MAX_ASKED = 100
"""Nodes that are asked for their births in one turn. The others are asked in the next."""

TURN_SECONDS = 0.01
"""How long messages are read before others on the loop have their turn."""

MAX_INTERVAL_SECONDS = 3600.0

NOTHING = cast(wire.Payload, wire.PAYLOAD())
"""Stands for a payload that was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadMessage:
    """A message of Sparkplug in a batch that is not read yet."""

    topic: str
    payload: bytes
    received_at: int
    is_retained: bool
    node_topic: NodeTopic


@dataclass(slots=True)
class ReadMessages:
    """What a batch's messages of Sparkplug became. `dead`: dead letters, by the digest of the message;
    `healed`: the digests of messages that were dead letters before and are read now.
    """

    taken: list[TakenMessage] = field(default_factory=list)
    dead: dict[bytes, DeadMessage] = field(default_factory=dict)
    healed: dict[bytes, None] = field(default_factory=dict)
    known: tuple[Known, ...] = ()

    async def store(self, connection: Connection) -> None:
        """Stores the nodes and removes the healed dead letters, in the transaction of the batch."""
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
        """Removes the dead letter of a message, one of this batch or a stored one: it is read now."""
        digest = dead_messages.message_digest(topic, payload)
        if self.dead.pop(digest, None) is None:
            self.healed[digest] = None


@dataclass(slots=True)
class _BirthRequest:
    """When a node was asked for its birth, and how often without an answer. `since`: when (monotonic)
    something of it could not be read; None where all can.
    """

    topic: str
    since: float | None = None
    asked_monotonic: float | None = None
    times: int = 0


class Host:
    """The host of one partition, for one term of its lease."""

    def __init__(self, settings: SparkplugSettings, database: Database) -> None:
        self._database = database
        self._reorder_seconds = settings.reorder_timeout.total_seconds()
        self._interval_seconds = settings.rebirth_interval.total_seconds()
        self._nodes: OrderedDict[NodeKey, Node] = OrderedDict()
        # The number of metrics of each node, and their sum. To count them again with each batch would cost as
        # much as all nodes, however few of them sent something.
        self._sizes: dict[NodeKey, int] = {}
        self._size = 0
        self._asking: dict[NodeKey, _BirthRequest] = {}
        self.is_asking = asyncio.Event()
        """Set while some node is to be asked for its births: whoever waits for it calls `ask` from time to
        time.
        """

    async def read(self, unread: Sequence[UnreadMessage], decoder: Decoder) -> ReadMessages:
        """Reads the messages of a batch in their order. Raises StoreError before anything was read."""
        keys = {one.node_topic.node for one in unread}
        await self._load(keys)
        read = ReadMessages()
        touched: dict[NodeKey, NodeTopic] = {}
        began = clock.monotonic()
        for one in unread:
            if clock.monotonic() - began > TURN_SECONDS:
                await asyncio.sleep(0)
                began = clock.monotonic()
            node_topic = one.node_topic
            if one.is_retained and node_topic.source.retained == "skip":
                continue
            touched[node_topic.node] = node_topic
            metrics.SPARKPLUG_MESSAGES.labels(node_topic.address.kind or "").inc()
            try:
                found = self._read(one, decoder)
            except DecodeError as error:
                read.keep(one.topic, one.payload, error, node_topic.customer)
                continue
            for taken in found:
                message = taken.arrival
                if taken.refusal is not None:
                    read.keep(message.topic, message.raw, taken.refusal, node_topic.customer)
                elif taken.was_held:
                    read.heal(message.topic, message.raw)
                decoder.tell_skipped(taken)
                # Without its parsed payload, which takes many times the memory of its rows.
                read.taken.append(replace(taken, skipped=(), arrival=replace(message, payload=NOTHING)))
        read.known = tuple(self._known(touched, decoder))
        self._notice_gaps(touched)
        self._trim(keys)
        return read

    def _read(self, one: UnreadMessage, decoder: Decoder) -> Sequence[TakenMessage]:
        """Reads one message. Raises DecodeError and nothing else: a fault of ours is an `internal_error` of
        this message, for the next one is another node's.
        """
        node_topic = one.node_topic
        try:
            message = sparkplug.arrival(node_topic, one.topic, one.payload, one.received_at)
            return sparkplug.take(
                self._nodes[node_topic.node], node_topic, message, decoder.bounds, is_retained=one.is_retained
            )
        except DecodeError:
            raise
        except Exception as error:
            fault = bulkhead.note("decode", node_topic.source.source.topic, error)
            raise DecodeError(Reason.INTERNAL_ERROR, fault.text) from error

    async def _load(self, keys: Collection[NodeKey]) -> None:
        missing = [key for key in keys if key not in self._nodes]
        if missing:
            found = await store.load(self._database, missing)
            for key in missing:
                self._nodes[key] = found.get(key) or Node()
        for key in keys:
            self._nodes.move_to_end(key)

    def _known(self, touched: dict[NodeKey, NodeTopic], decoder: Decoder) -> Iterable[Known]:
        """What is to be stored of these nodes. Introduces devices that are new or have changed."""
        for key, node_topic in touched.items():
            node = self._nodes[key]
            if not node.births.devices:
                continue  # nothing is known of it, and there is nothing to remember
            for device in node.births.changed:
                decoder.introduce(node_topic, device)
            ids = {device: node_topic.device(device) for device in node.births.changed}
            yield Known(key=key, node=node, ids=ids)

    def settle(self, read: ReadMessages) -> None:
        """What was read is stored: nothing of these nodes is to be stored any more."""
        for known in read.known:
            known.node.births.changed.clear()
            known.node.births.defined.clear()

    def _trim(self, keys: Collection[NodeKey]) -> None:
        """Forgets the nodes that were not heard of for longest, but none of `keys`. Messages that wait in
        memory for a birth go with them: each is stored as a dead letter as well.
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

    def _notice_gaps(self, touched: dict[NodeKey, NodeTopic]) -> None:
        now = clock.monotonic()
        for key, node_topic in touched.items():
            node, asking = self._nodes[key], self._asking.get(key)
            if not node.wants_rebirth:
                if asking is not None:
                    asking.since, asking.times = None, min(asking.times, 1)
                continue
            if asking is None:
                asking = self._asking[key] = _BirthRequest(topic=node_topic.address.command_topic)
                self.is_asking.set()
            if asking.since is None:
                asking.since = now
                missing = node.next if node.is_patient else None
                log.info("ingest.sparkplug_gap", customer=key[0], node=key[1], missing=missing)
                metrics.SPARKPLUG_GAPS.inc()

    def ask(self, publish: Callable[[str, bytes], bool]) -> None:
        """Asks the nodes that are due for their births. A node that does not answer is asked less and less
        often.
        """
        now = clock.monotonic()
        asked = 0
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
