"""Messages of a topic filter as they arrive, for who looks at them: a broker session for each filter, in the
HTTP process and at a bounded pace, only while somebody looks.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

import structlog

from gateway import clock
from gateway.events.listening import SubscriptionRefused, TopicMessage
from gateway.ingest.explain import Explainer
from gateway.model.errors import BrokerRefused, ConfigError, RequestRefused
from gateway.model.explanation import Explanation
from gateway.model.subscriptions import matches, may_overlap
from gateway.model.topics import Source, filter_fault
from gateway.payloads.sources import compile_sources, only
from gateway.settings import BrokerSettings, Settings

log = structlog.get_logger(__name__)

EACH_SECOND = 20
"""Messages of a filter: as many as a person sees at all."""

SHOWN = 50
MAX_WATCHED = 8
"""Filters at once, each a session at the broker."""

MAX_OWN = 2
"""Of one customer; of everybody's operators twice as many."""

WATCHED_SECONDS = 300.0
UNSEEN_SECONDS = 45.0
"""Without script a page asks every 20 s."""

MAX_FILTERS = 100
PACED_SECONDS = 3.0
OPEN_SECONDS = 5.0
"""A page that was not asked for so long gives its place to another of its customer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenMessage:
    """`explanation` None: it was too large to be looked at here."""

    number: int
    at: datetime
    heard: TopicMessage
    explanation: Explanation | None


@dataclass(slots=True, kw_only=True)
class TopicWatch:
    """What was seen of a filter. `paced_monotonic`: when there was more in a second than is shown. `state`
    `lost`: the broker does not answer, `detail` says why; `stopped`: for somebody looked for long enough.
    """

    filter: str
    customer: str | None
    began_monotonic: float
    asked_monotonic: float
    state: Literal["listening", "lost", "stopped"] = "listening"
    detail: str = ""
    paced_monotonic: float = -math.inf
    count: int = 0
    messages: deque[SeenMessage] = field(default_factory=lambda: deque(maxlen=SHOWN))
    task: asyncio.Task[None] | None = None

    @property
    def is_paced(self) -> bool:
        """Whether more comes than is shown."""
        return clock.monotonic() - self.paced_monotonic < PACED_SECONDS


class Hear(Protocol):
    """`gateway.events.listening.look`."""

    def __call__(  # noqa: D102
        self, settings: BrokerSettings, filters: Sequence[str], *, each_second: int
    ) -> AsyncGenerator[TopicMessage | None, None]: ...


class LiveMessages:
    """By the configuration that is in force: a reload changes it."""

    def __init__(self, settings: Settings, hear: Hear) -> None:
        self._settings = settings
        self._hear = hear
        self._watches: dict[tuple[str | None, str], TopicWatch] = {}

    def know(self, settings: Settings) -> None:
        """After a reload: who looks begins anew, by the new sources."""
        self._settings = settings
        for watch in self._watches.values():
            _stop(watch)
        self._watches.clear()

    def filters(self, customer: str | None) -> Sequence[str]:
        """What could be looked at: the filters of the sources, for a customer those with its own id."""
        own = [source.filter(customer) for source in self._sources(customer)]
        return list(dict.fromkeys(own))[:MAX_FILTERS]

    def watch(self, customer: str | None, wanted: str) -> TopicWatch:
        """What was seen of the filter so far, and more of it from now on. `customer`: whose messages alone.
        Raises RequestRefused for what is no filter, and where too much is looked at.
        """
        self._forget_unseen()
        now = clock.monotonic()
        found = self._watches.get((customer, wanted))
        if found is None:
            self._check(customer, wanted)
            found = TopicWatch(filter=wanted, customer=customer, began_monotonic=now, asked_monotonic=now)
            self._watches[customer, wanted] = found
            found.task = asyncio.create_task(self._look(found), name="live messages")
        found.asked_monotonic = now
        return found

    def again(self, customer: str | None, wanted: str) -> None:
        """Looks on where it was stopped, from now."""
        if (found := self._watches.pop((customer, wanted), None)) is not None:
            _stop(found)
        self.watch(customer, wanted)

    async def close(self) -> None:
        """Nobody looks any more."""
        tasks = [watch.task for watch in self._watches.values() if watch.task is not None]
        self._watches.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _check(self, customer: str | None, wanted: str) -> None:
        fault = filter_fault(wanted) if len(wanted) <= 500 else "it is too long"
        if fault is None and wanted.startswith("$"):
            fault = "what begins with $ is the broker's own"
        if fault is not None:
            raise RequestRefused("request.invalid", f"This is no topic filter: {fault}.")
        own = [key for key in self._watches if key[0] == customer]
        if len(own) >= (MAX_OWN if customer is not None else 2 * MAX_OWN):
            eldest = min(own, key=lambda key: self._watches[key].asked_monotonic)
            if clock.monotonic() - self._watches[eldest].asked_monotonic < OPEN_SECONDS:
                raise RequestRefused(
                    "gateway.overloaded",
                    f"{len(own)} topics are looked at already: close one of these pages first.",
                    retry_after=30.0,
                )
            _stop(self._watches.pop(eldest))
        elif len(self._watches) >= MAX_WATCHED:
            raise RequestRefused(
                "gateway.overloaded",
                "Too many topics are looked at: try again in a minute.",
                retry_after=30.0,
            )

    def _forget_unseen(self) -> None:
        oldest = clock.monotonic() - UNSEEN_SECONDS
        for key in [key for key, watch in self._watches.items() if watch.asked_monotonic < oldest]:
            _stop(self._watches.pop(key))

    def _sources(self, customer: str | None) -> list[Source]:
        """Those whose messages the customer may see: where the topic, or the source, says whose they are. A
        payload that names its customer may hold another's.
        """
        compiled = compile_sources(self._settings.telemetry.sources)
        if customer is None:
            return list(only(compiled))
        return [
            one.source
            for one in compiled
            if one.shape.customer is None and one.source.customer in (None, customer)
        ]

    def _subscribed(self, watch: TopicWatch) -> list[str]:
        """Of a customer's look only filters of its own messages: of the others nothing comes here at all."""
        if watch.customer is None:
            return [watch.filter]
        return [own for own in self.filters(watch.customer) if may_overlap(own, watch.filter)]

    async def _look(self, watch: TopicWatch) -> None:
        looking = asyncio.ensure_future(self._listen(watch, self._subscribed(watch)))
        try:
            while not looking.done() and not self._is_over(watch):
                await asyncio.wait({looking}, timeout=1.0)
            if looking.done():
                looking.result()
            if watch.state == "listening":
                watch.state = "stopped"
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    def _is_over(self, watch: TopicWatch) -> bool:
        now = clock.monotonic()
        if now - watch.asked_monotonic > UNSEEN_SECONDS:
            self._watches.pop((watch.customer, watch.filter), None)
            return True
        return now - watch.began_monotonic > WATCHED_SECONDS

    async def _listen(self, watch: TopicWatch, filters: Sequence[str]) -> None:
        if not filters:
            watch.detail = "No source takes messages of yours by this filter."
            await asyncio.Event().wait()
        settings = self._settings
        # another's is not even known; one that was taken out of the configuration is known no more
        customers = [one for one in settings.customers if watch.customer in (None, one)]
        explainer = Explainer(settings.telemetry, customers)
        own = f"{settings.broker.topic_root}/"
        try:
            async with aclosing(self._hear(settings.broker, filters, each_second=EACH_SECOND)) as heard:
                async for message in heard:
                    if message is None:
                        watch.paced_monotonic = clock.monotonic()
                    elif not message.topic.startswith(own) and _is_shown(watch, explainer, message.topic):
                        _note(watch, explainer, message)
        except SubscriptionRefused as error:
            _lose(watch, error, "The broker does not let the gateway's account listen to this filter.")
        except (BrokerRefused, ConfigError) as error:
            _lose(watch, error, "The broker does not answer the gateway: try again in a moment.")


def _is_shown(watch: TopicWatch, explainer: Explainer, topic: str) -> bool:
    """What a customer's people may see is decided by the topic alone: no payload of another's is read."""
    if watch.customer is None:
        return True
    return explainer.owner_of(topic) == watch.customer and matches(topic, watch.filter)


def _note(watch: TopicWatch, explainer: Explainer, message: TopicMessage) -> None:
    at = clock.now()
    explanation = None
    if message.size_bytes == len(message.payload):
        explanation = explainer.explain(
            message.topic, message.payload, now=at, is_retained=message.is_retained
        )
    watch.count += 1
    watch.messages.appendleft(SeenMessage(number=watch.count, at=at, heard=message, explanation=explanation))


def _lose(watch: TopicWatch, error: Exception, said: str) -> None:
    log.warning("http.live_messages_refused", detail=str(error))
    watch.state, watch.detail = "lost", said


def _stop(watch: TopicWatch) -> None:
    watch.state = "stopped"
    if watch.task is not None:
        watch.task.cancel()
