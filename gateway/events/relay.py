"""Outbox to MQTT, by the replica that holds the lease: at least once, in order within each lane, and no lane
waits for another.

An event is marked as published only on a good PUBACK. What a kill leaves between the two is published again,
with the same id.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import aiomqtt
import structlog

from gateway import clock
from gateway.bulkhead import contained
from gateway.events.cloudevent import CONTENT_TYPE, cloud_event, topic
from gateway.events.leading import lead
from gateway.events.session import ControlSession, PublishRefused, StrictClient
from gateway.model.backoff import full_jitter
from gateway.model.errors import StoreError
from gateway.model.event import Event
from gateway.outage import Outage
from gateway.settings import Settings
from gateway.store import outbox
from gateway.store.notices import EVENTS, LookPace, Notices
from gateway.store.pool import Database

log = structlog.get_logger(__name__)

LEASE = "outbox"
POLL_SECONDS = 0.5
EXPIRY_SECONDS = 7 * 86400
LANES = 256
EVENTS_OF_A_LANE = 50
REFUSED_CAP_SECONDS = 60.0
GOODBYE_SECONDS = 2.0
LAST_SECONDS = 1.0


class _Unwritable(PublishRefused):
    """No document can be made of the event: its lane waits, and the log has why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _LaneResult:
    """Why the next event of a lane was not taken, None where it was."""

    trouble: aiomqtt.MqttError | None


@dataclass(slots=True)
class _Refusal:
    attempts: int
    until: float


class Relay:
    """One for each replica; the one that holds the lease publishes."""

    def __init__(
        self, settings: Settings, database: Database, *, owner: str, notices: Notices | None = None
    ) -> None:
        """`notices` tells of events; without it they are asked for."""
        self._settings = settings
        self._database = database
        self._owner = f"{owner}/{secrets.token_hex(4)}"
        self._wake, self._look = asyncio.Event(), asyncio.Event()
        self._pace = LookPace(notices, EVENTS, POLL_SECONDS, self._wake.set)
        self._running: dict[str, asyncio.Task[_LaneResult]] = {}
        self._taken: dict[
            str, Sequence[int]
        ] = {}  # by the broker, not marked yet: these lanes rest until they are
        self._refused: dict[str, _Refusal] = {}
        self._outage = Outage(
            began=lambda detail: log.warning("events.outbox_away", detail=detail),
            ended=lambda: log.info("events.outbox_returned"),
        )

    @property
    def busy(self) -> bool:
        """Whether an acknowledgement is awaited."""
        return bool(self._running)

    def wake(self) -> None:
        """There may be new events, or the lease may be free: looks at once."""
        self._wake.set()
        self._look.set()

    async def run(self) -> None:
        """Until cancelled; then the lease is given back. Neither a broker nor a database that is away ends
        it.
        """
        await lead(self._database, LEASE, self._owner, self._publish, look=self._look)

    async def _publish(self) -> None:
        """While the lease is ours. What was taken is marked before another replica has the lease: what is not
        marked is published again.
        """
        try:
            await ControlSession("events", self._settings.broker, serve=self._serve).run()
        finally:
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(GOODBYE_SECONDS):
                    await self._mark()

    async def _mark(self) -> None:
        if taken := dict(self._taken):
            await outbox.mark_published(
                self._database, [position for positions in taken.values() for position in positions]
            )
            for lane in taken:
                del self._taken[lane]

    async def _serve(self, client: StrictClient) -> None:
        """Publishes what comes until cancelled. Raises MqttError when the connection ends."""
        gone = asyncio.create_task(client.ended())
        gone.add_done_callback(lambda _: self._wake.set())
        try:
            while True:
                if gone.done():
                    raise aiomqtt.MqttError("the broker ended the connection")
                found = await self._round(client)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pace.seconds(found=found)):
                        await self._wake.wait()
                self._wake.clear()
        finally:
            gone.cancel()
            tasks = list(self._running.values())
            if (
                tasks
            ):  # acknowledgements that are on their way are worth a moment: what is not marked is told twice
                await asyncio.wait(tasks, timeout=LAST_SECONDS)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._collect()

    async def _round(self, client: StrictClient) -> bool:
        """Marks what was taken, and begins the lanes that have something. Whether something is told, or waits
        to be. Raises MqttError of a lane that lost the connection.
        """
        trouble = self._collect()
        try:
            await self._mark()
            if trouble is not None:
                raise trouble
            now = clock.monotonic()
            resting = [lane for lane, refusal in self._refused.items() if refusal.until > now]
            found = await outbox.unpublished(
                self._database,
                without=[*self._running, *resting],
                lanes=max(0, LANES - len(self._running)),
                events=EVENTS_OF_A_LANE,
            )
        except StoreError as error:
            self._outage.note(str(error))
            return True
        self._outage.note(None)
        for lane, events in found.items():
            self._running[lane] = asyncio.create_task(
                self._tell(client, lane, events), name=f"events of {lane}"
            )
            self._running[lane].add_done_callback(lambda _: self._wake.set())
        return bool(self._running or self._refused)

    async def _tell(self, client: StrictClient, lane: str, events: Sequence[Event]) -> _LaneResult:
        """One after another; stops at the first that the broker does not take."""
        taken: list[int] = []
        try:
            for event in events:
                payload = b""
                with contained("event", event.event_id):
                    payload = cloud_event(event, instance=self._settings.instance).payload()
                if not payload:
                    return _LaneResult(trouble=_Unwritable("an event cannot be written"))
                await client.publish_once(
                    topic(event, root=self._settings.broker.topic_root),
                    payload,
                    content_type=CONTENT_TYPE,
                    expiry_seconds=EXPIRY_SECONDS,
                )
                taken.append(event.position)
        except aiomqtt.MqttError as error:
            return _LaneResult(trouble=error)
        finally:
            self._taken[lane] = taken  # also when cancelled: what was acknowledged is not told again
        return _LaneResult(trouble=None)

    def _collect(self) -> aiomqtt.MqttError | None:
        """Takes note of the lanes that have ended; the error that ended the connection, where one did."""
        trouble: aiomqtt.MqttError | None = None
        for lane, task in list(self._running.items()):
            if not task.done():
                continue
            del self._running[lane]
            if task.cancelled():
                continue
            told = task.result()
            if told.trouble is None:
                self._refused.pop(lane, None)
                continue
            self._rest(lane, told.trouble)
            if not isinstance(told.trouble, PublishRefused):
                trouble = told.trouble
        return trouble

    def _rest(self, lane: str, error: aiomqtt.MqttError) -> None:
        """The lane waits, longer each time; said once."""
        attempts = self._refused[lane].attempts + 1 if lane in self._refused else 1
        wait = full_jitter(attempt=attempts, rand=random.random(), cap_seconds=REFUSED_CAP_SECONDS)
        self._refused[lane] = _Refusal(attempts=attempts, until=clock.monotonic() + wait)
        if attempts == 1 and isinstance(error, PublishRefused) and not isinstance(error, _Unwritable):
            log.warning(
                "events.publish_refused",
                lane=lane,
                detail=str(error),
                advice="let the gateway publish under its topic root",
            )
