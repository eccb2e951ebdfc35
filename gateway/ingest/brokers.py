"""The brokers of an ingest partition: which one its session is with, when another one's turn is, and what is
told of it.
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
    """One for each partition: each finds its own way round a list, whatever the others find."""

    def __init__(self, settings: BrokerSettings, partition: int, pipeline: Pipeline) -> None:
        self._settings = settings
        self._partition = partition
        self._pipeline = pipeline
        self._rotation = Rotation(settings.urls)
        self._refusing: set[str] = set()
        self._used: str | None = None

    @property
    def current(self) -> str:
        """The URL of the one in use, or of the one to try."""
        return self._rotation.current

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._settings.urls)

    async def connect(self, subscription: Subscription) -> IngestSession:
        """A session at the current one. Raises what `session.connect` does; BrokerRefused only once none is
        left that did not refuse us: until then it is a ConnectionError.
        """
        try:
            session = await connect(self._settings.at(self.current), subscription, self._pipeline)
        except BrokerRefused as error:
            self._refusing.add(self.current)
            if len(self._refusing) < self.count:
                raise ConnectionError(str(error)) from error
            raise
        self._refusing.clear()
        self._note(present=session.session_present)
        return session

    def left(self, *, steady: bool) -> bool:
        """The session ended, or there was none. Whether to wait before the next attempt."""
        self._tell(None)
        return self._rotation.ended(steady=steady)

    async def ended(self, session: IngestSession) -> str | None:
        """Until the session has ended; the reason. Where a broker that stands earlier in the list answers
        again, the session is ended in good order, so that the next one is there: None.

        Not while the database is away: what is in hand could not be acknowledged before.
        """
        every = self._settings.return_interval
        while every is not None and self._rotation.earlier and not session.closed.done():
            await asyncio.wait({session.closed}, timeout=every.total_seconds())
            if session.closed.done() or self._pipeline.is_stuck:
                continue
            if (url := await self._answering()) is not None and not session.closed.done():
                await self._leave(session, url)
                return None
        return await session.closed

    async def _answering(self) -> str | None:
        """The first of the earlier ones that lets us in. A TCP connection proves nothing: a balancer in front
        of a dead broker accepts it.
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

    async def _leave(self, session: IngestSession, url: str) -> None:
        log.info("ingest.broker_returned", partition=self._partition, broker=url, instead_of=self.current)
        # what is in hand is acknowledged here: elsewhere it could not be, and it would come twice
        session.finish()
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVING_SECONDS):
                await self._pipeline.drained()
        session.end("a broker that stands earlier in broker.url answers again")
        await session.closed
        self._tell(None)
        self._rotation.answers(url)

    def _tell(self, used: str | None) -> None:
        for url in self._settings.urls:
            metrics.BROKER.labels(str(self._partition), url).set(url == used)

    def _note(self, *, present: bool) -> None:
        self._tell(self.current)
        before, self._used = self._used, self.current
        if before is None or before == self.current:
            return
        metrics.BROKER_CHANGES.inc()
        advice = "it knew our session: the queue is there"
        if not present:
            advice = (
                "it did not know our session: what the other one has queued waits there until the session is"
                " with it again, up to broker.session_expiry"
            )
        log.warning(
            "ingest.broker_changed",
            partition=self._partition,
            broker=self.current,
            instead_of=before,
            session_present=present,
            advice=advice,
        )
