"""Tries dead messages again: by the decoder that refused them, since rules and customers may have changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from gateway.ingest.decode import Decoder, Row
from gateway.model.errors import DecodeError, RequestRefused, StoreRejected, TooManyDevices
from gateway.model.sample import Metrics, to_microseconds
from gateway.payloads.formats.values import Reason
from gateway.payloads.sources import compile_sources
from gateway.payloads.sparkplug.node import Node
from gateway.settings import Settings
from gateway.store import dead_letters, messages
from gateway.store import sparkplug as sparkplug_store
from gateway.store.dead_letters import KeptDeadLetter
from gateway.store.messages import DeadMessageFilter
from gateway.store.pool import Database
from gateway.store.sparkplug import NodeKey
from gateway.store.telemetry import Key, TelemetryStore

MAX_FAILED = 100
"""Failures that are told one by one."""


ANOTHERS = "by the sources of now it is not this customer's: an operator can try it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """One that was tried again and stays, with its new reason."""

    id: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOutcome:
    """How many messages were taken, with how many samples; how many stay, the first of them with their
    reasons. `last`: the id after which to go on, None where nothing is left.
    """

    replayed: int
    samples: int
    failed_count: int
    failed: tuple[Failed, ...]
    last: int | None


class Replay:
    """Tries again under one configuration. `bound`: for whoever may touch this customer's messages only."""

    def __init__(self, settings: Settings, database: Database, *, bound: str | None = None) -> None:
        self._bound = bound
        sources = compile_sources(settings.telemetry.sources)
        self._decoder = Decoder(settings.telemetry, sources, settings.customers)
        self._database = database
        self._store = TelemetryStore(
            database,
            # whoever the decoder takes is listed, though the daemon may not have reloaded yet
            register_customers=True,
            max_devices=lambda customer: settings.quotas.of(customer).devices,
        )

    async def one(self, dead_letter: int, *, now: datetime) -> int | Failed:
        """Stores its samples and removes the letter, in one transaction; how many samples. Done twice it
        changes nothing more. One that fails stays, with its new reason.

        A sample without a time of its own takes the time at which the message was first received. Raises
        RequestRefused where there is no such message, and StoreError.
        """
        kept = await dead_letters.read(self._database, dead_letter)
        if kept is None or kept.kind != "message":
            raise RequestRefused("request.not_found", f"There is no dead message {dead_letter}.")
        if kept.reason == Reason.OVERSIZED_PACKET:
            return Failed(
                id=dead_letter, reason=kept.reason, detail="only the first bytes of the message were kept"
            )
        try:
            samples = _merged(await self._decoded(kept, now))
            if self._bound is not None and any(key[0] != self._bound for key in samples):
                return Failed(id=dead_letter, reason=kept.reason, detail=ANOTHERS)
            await self._store.replay(samples, to_microseconds(kept.first_at), dead_letter, kept)
        except DecodeError as error:
            return await self._stays(dead_letter, kept, str(error.reason), error.detail)
        except TooManyDevices as error:
            return await self._stays(dead_letter, kept, Reason.TOO_MANY_DEVICES, str(error))
        except StoreRejected as error:
            return await self._stays(dead_letter, kept, Reason.REFUSED_BY_DATABASE, str(error))
        return len(samples)

    async def some(
        self, wanted: DeadMessageFilter, *, after: int, limit: int, now: datetime
    ) -> ReplayOutcome:
        """Up to `limit` of them, the oldest first, those after this id."""
        chosen = await messages.ids(self._database, wanted, after=after, limit=limit + 1)
        return await self.these(chosen[:limit], now=now, has_more=len(chosen) > limit)

    async def these(self, ids: list[int], *, now: datetime, has_more: bool = False) -> ReplayOutcome:
        """In this order. One that is gone meanwhile was taken by somebody else, and counts nowhere."""
        replayed = samples = 0
        failed: list[Failed] = []
        for each in ids:
            try:
                found = await self.one(each, now=now)
            except RequestRefused:
                continue
            if isinstance(found, Failed):
                failed.append(found)
            else:
                replayed += 1
                samples += found
        return ReplayOutcome(
            replayed=replayed,
            samples=samples,
            failed_count=len(failed),
            failed=tuple(failed[:MAX_FAILED]),
            last=ids[-1] if ids and has_more else None,
        )

    async def _decoded(self, kept: KeptDeadLetter, now: datetime) -> list[Row]:
        try:
            return await self._read(kept, to_microseconds(kept.first_at))
        except DecodeError as error:
            if error.reason != Reason.TIMESTAMP_IN_FUTURE:
                raise
            # it has a time, which may have come
            return await self._read(kept, to_microseconds(now))

    async def nodes(self, topic: str) -> Mapping[NodeKey, Node]:
        """The edge node of Sparkplug that the topic is of, with what is stored of it; none where it is none.
        Raises StoreError.
        """
        self._decoder.customer_of(topic)  # a topic that it has met
        node_topic = self._decoder.node_topic_of(topic)
        if node_topic is None:
            return {}
        found = await sparkplug_store.load(self._database, [node_topic.node])
        return {node_topic.node: found.get(node_topic.node) or Node()}

    async def _read(self, kept: KeptDeadLetter, received_at: int) -> list[Row]:
        """Raises DecodeError and StoreError."""
        self._decoder.recall_by(await self.nodes(kept.topic))
        return self._decoder.decode(kept.topic, kept.payload, received_at, is_retained=kept.is_retained)

    async def _stays(self, dead_letter: int, kept: KeptDeadLetter, reason: str, detail: str) -> Failed:
        source = self._decoder.source_of(kept.topic)
        await messages.note_refused(
            self._database,
            dead_letter,
            reason=reason,
            detail=detail,
            customer=self._decoder.customer_of(kept.topic) or kept.customer,
            source=None if source is None else source.source.topic,
        )
        return Failed(id=dead_letter, reason=reason, detail=detail)


def _merged(rows: list[Row]) -> dict[Key, Metrics]:
    samples: dict[Key, Metrics] = {}
    for customer, device, at, metrics in rows:
        samples[customer, device, at] = {**samples.get((customer, device, at), {}), **metrics}
    return samples
