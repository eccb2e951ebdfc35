"""The service for messages that are dead letters, and for quotas: shows them, tries messages again, discards
them. HTTP and the command line use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from gateway import clock
from gateway.ingest.explain import ADVICE, explain
from gateway.ingest.replay import Replay, ReplayOutcome
from gateway.model.errors import RequestRefused
from gateway.model.explanation import Explanation
from gateway.model.quota import Quota, QuotaKind
from gateway.payloads.formats.values import MAX_PAYLOAD_BYTES, Reason
from gateway.payloads.sparkplug.node import Node
from gateway.settings import Settings
from gateway.store import messages as store
from gateway.store import quotas
from gateway.store.messages import Counted, DeadMessageFilter, ListedDeadMessage
from gateway.store.pool import Database
from gateway.store.quotas import OverQuota
from gateway.store.sparkplug import NodeKey


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedMessage:
    """A dead message, what to do about it, and what would become of it now. `explanation` is None where only
    a part of the message was kept.
    """

    message: ListedDeadMessage
    advice: str
    explanation: Explanation | None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaUse:
    """A customer's quotas, how much of them it uses, and which of them it is over now."""

    customer: str
    quota: Quota
    devices: int
    stored_bytes: int
    over: tuple[OverQuota, ...]


class Messages:
    """Works by the configuration that is in force, which a reload changes."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database

    def know(self, settings: Settings) -> None:
        """Works by these settings from now on."""
        self._settings = settings

    async def page(
        self, wanted: DeadMessageFilter, *, before: int = store.LAST_ID, limit: int
    ) -> Sequence[ListedDeadMessage]:
        """Dead messages, the newest first."""
        return await store.page(self._database, wanted, before=before, limit=limit)

    async def until_now(self, wanted: DeadMessageFilter) -> DeadMessageFilter:
        """The same filter without messages that come from now on."""
        newest = await store.page(self._database, wanted, limit=1)
        return replace(wanted, up_to=newest[0].id if newest else 0)

    async def counted(self, customer: str | None) -> Counted:
        """How many dead messages there are, by source and reason."""
        return await store.counted(self._database, customer)

    async def one(self, message: int) -> ExplainedMessage | None:
        """One dead message by its number; None where there is none."""
        found = await store.one(self._database, message, payload_bytes=MAX_PAYLOAD_BYTES)
        if found is None:
            return None
        advice = ADVICE.get(found.reason, "mend the source or the device, then try it again")
        if found.reason == Reason.OVERSIZED_PACKET:
            return ExplainedMessage(message=found, advice=advice, explanation=None)
        nodes = await Replay(self._settings, self._database).nodes(found.topic)
        explanation = self._explained(found, nodes, found.first_at)
        if explanation.dead_letter == Reason.TIMESTAMP_IN_FUTURE:  # as a replay: its time may have come
            explanation = self._explained(found, nodes, clock.now())
        return ExplainedMessage(message=found, advice=advice, explanation=explanation)

    def _explained(
        self, found: ListedDeadMessage, nodes: Mapping[NodeKey, Node], now: datetime
    ) -> Explanation:
        settings = self._settings
        customers = set(settings.customers)
        if settings.telemetry.auto_register_customers and found.customer is not None:
            customers.add(found.customer)
        return explain(
            found.topic,
            found.head,
            telemetry=settings.telemetry,
            customers=customers,
            connections=(),
            now=now,
            is_retained=found.is_retained,
            nodes=nodes,
        )

    async def replay(
        self, wanted: DeadMessageFilter, *, after: int = 0, limit: int, bound: str | None = None
    ) -> ReplayOutcome:
        """Tries the messages that fit again, the oldest first. `bound`: only those that are this customer's
        by now too.
        """
        replay = Replay(self._settings, self._database, bound=bound)
        return await replay.some(wanted, after=after, limit=limit, now=clock.now())

    async def replay_these(self, ids: Sequence[int], *, bound: str | None = None) -> ReplayOutcome:
        """Tries these messages again, the oldest first."""
        replay = Replay(self._settings, self._database, bound=bound)
        return await replay.these(sorted(set(ids)), now=clock.now())

    async def discard(self, wanted: DeadMessageFilter, *, expected: int) -> None:
        """Discards the messages that fit, for good. Raises RequestRefused("request.conflict") where there are
        not as many as expected.
        """
        found = await store.discard(self._database, wanted, expected=expected)
        if found != expected:
            raise RequestRefused(
                "request.conflict",
                f"{found} messages fit now, not {expected}: look at them, then confirm {found}.",
            )

    async def discard_one(self, message: int) -> bool:
        """Discards one message, for good. Whether it was there."""
        return await store.discard_one(self._database, message)

    async def fitting(self, wanted: DeadMessageFilter) -> int:
        """How many messages fit."""
        return await store.fitting(self._database, wanted)

    async def over(
        self, customer: str | None, *, after: tuple[str, str] = ("", ""), limit: int
    ) -> Sequence[OverQuota]:
        """The quotas that customers are over now."""
        return await quotas.over(self._database, customer, after=after, limit=limit)

    async def bounds(self, customer: str) -> QuotaUse:
        """What a customer may send and keep."""
        stored = await quotas.stored(self._database, [customer])
        return QuotaUse(
            customer=customer,
            quota=self._settings.quotas.of(customer),
            devices=await quotas.devices(self._database, customer),
            stored_bytes=stored.get(customer, 0),
            over=tuple(await quotas.over(self._database, customer, limit=len(QuotaKind))),
        )
