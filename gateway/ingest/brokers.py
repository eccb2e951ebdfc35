"""The brokers of an ingest partition: at which one its session is, when the next one is tried, and when the
session goes back to an earlier one.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress

import structlog

from gateway import metrics
from gateway.ingest.pipeline import Pipeline
from gateway.ingest.session import IngestSession, connect
from gateway.ingest.subscriptions import Subscription
from gateway.model.errors import BrokerRefused
from gateway.model.rotation import Rotation
from gateway.settings import BrokerSettings

LEAVING_SECONDS = 10.0

log = structlog.get_logger(__name__)


class Brokers:
    """The list of brokers as one partition goes through it. Each partition does so by itself."""

    def __init__(self, settings: BrokerSettings, partition: int, pipeline: Pipeline) -> None:
        self._settings = settings
        self._partition = partition
        self._pipeline = pipeline
        self._rotation = Rotation(settings.urls)
        self._refusing: set[str] = set()
        self._used: str | None = None

    @property
    def current(self) -> str:
        """The URL of the broker in use, or of the one to try next."""
        return self._rotation.current

    @property
    def count(self) -> int:
        """How many brokers the list has."""
        return len(self._settings.urls)

    async def connect(self, subscription: Subscription) -> IngestSession:
        """A session at the current broker. Raises as `session.connect`, but BrokerRefused only when every
        broker of the list has refused us: until then a refusal is a ConnectionError, and the next broker is
        tried.
        """
        try:
            session = await connect(self._settings.at(self.current), subscription, self._pipeline)
        except BrokerRefused as error:
            self._refusing.add(self.current)
            if len(self._refusing) < self.count:
                raise ConnectionError(str(error)) from error
            raise
        self._refusing.clear()
        self._tell_change(session_present=session.session_present)
        return session

    def left(self, *, steady: bool) -> bool:
        """Goes on to the next broker, after a session ended or could not begin. Whether to wait before it is
        tried.
        """
        self._show_used(None)
        return self._rotation.ended(steady=steady)

    async def ended(self, session: IngestSession) -> str | None:
        """Returns the reason when the session has ended. Where a broker that stands earlier in the list
        answers again, ends the session in good order, so that the next one begins there, and returns None.

        Does not go back while the database is away: what is in hand could not be acknowledged before.
        """
        interval = self._settings.return_interval
        while interval is not None and self._rotation.earlier and not session.closed.done():
            await asyncio.wait({session.closed}, timeout=interval.total_seconds())
            if session.closed.done() or self._pipeline.is_stuck:
                continue
            url = await self._earlier_that_answers()
            if url is not None and not session.closed.done():
                await self._go_back(session, url)
                return None
        return await session.closed

    async def _earlier_that_answers(self) -> str | None:
        """The first of the earlier brokers that accepts an MQTT connection. A TCP connection alone proves
        nothing: a balancer in front of a dead broker accepts it.
        """
        for url in self._rotation.earlier:
            asking = Subscription(
                client_id=f"fieldgate-ask-{secrets.token_hex(12)}",
                partition=self._partition,
                filters=(),
                is_lasting=False,
            )
            try:
                session = await connect(self._settings.at(url), asking, self._pipeline)
            except (BrokerRefused, OSError, TimeoutError) as error:
                log.debug("ingest.broker_asked", broker=url, detail=str(error))
            else:
                session.end("it answers")
                return url
        return None

    async def _go_back(self, session: IngestSession, url: str) -> None:
        log.info("ingest.broker_returned", partition=self._partition, broker=url, instead_of=self.current)
        # What is in hand can be acknowledged only here. Else this broker would send it again later.
        session.finish()
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVING_SECONDS):
                await self._pipeline.drained()
        session.end("a broker that stands earlier in broker.url answers again")
        await session.closed
        self._show_used(None)
        self._rotation.answers(url)

    def _show_used(self, used: str | None) -> None:
        for url in self._settings.urls:
            metrics.BROKER.labels(str(self._partition), url).set(url == used)

    def _tell_change(self, *, session_present: bool) -> None:
        self._show_used(self.current)
        before = self._used
        self._used = self.current
        if before is None or before == self.current:
            return
        metrics.BROKER_CHANGES.inc()
        advice = "it knew our session: the queue is there"
        if not session_present:
            advice = (
                "it did not know our session: what the other one has queued waits there until the session is"
                " with it again, up to broker.session_expiry"
            )
        log.warning(
            "ingest.broker_changed",
            partition=self._partition,
            broker=self.current,
            instead_of=before,
            session_present=session_present,
            advice=advice,
        )
