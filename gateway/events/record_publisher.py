"""Records to MQTT, by the replica that holds the lease: from the log of changes, by a position of its own.

At least once, each record's last state; a burst of records delays no event, for those go by another
connection. What the broker retains is noted before it is published, so what is deleted or gone is always
emptied.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Sequence

import aiomqtt
import structlog

from gateway import clock, metrics
from gateway.bulkhead import contained
from gateway.events.leading import lead
from gateway.events.record_documents import record_payload, record_topic
from gateway.events.session import ControlSession, PublishRefused, StrictClient, occurred
from gateway.model.pressure import Pressure
from gateway.outage import Outage
from gateway.settings import Settings
from gateway.store import records
from gateway.store.notices import RECORDS, LookPace, Notices
from gateway.store.pool import Database
from gateway.store.records import RecordPlace, RecordToPublish

log = structlog.get_logger(__name__)

LEASE = "records"
POLL_SECONDS = 0.5
SWEEP_SECONDS = 5.0
EXPIRY_SECONDS = 7 * 86400
AT_ONCE = 200
"""Records of a customer in one round: then it is another's turn."""

FEW, TOGETHER, RESTS = 25, 2, 3.0
"""The same while messages come in, how many of them are published side by side, and how long the publisher
rests after each step, as a multiple of what that took. A commit passes the loop several times and waits each
time for what is worked there: with rests between the steps it meets one of them.
"""

MAX_REST_SECONDS = 0.1
"""A broker that answers late is no work of ours, and every customer waits for a rest."""

REFUSED_SECONDS = 60.0
BROKEN_SECONDS = 5.0


class RecordPublisher:
    """One for each replica; the one that holds the lease publishes."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        *,
        owner: str,
        pressure: Pressure | None = None,
        notices: Notices | None = None,
    ) -> None:
        """`pressure`: of the ingest of this process, where it has one: records are in no hurry. `notices`
        tells of records; without it they are asked for.
        """
        self._pressure = pressure or Pressure()
        self._settings = settings
        self._database = database
        self._owner = f"{owner}/{secrets.token_hex(4)}"
        self._root = settings.broker.topic_root
        self._resting: dict[str, float] = {}
        self._refused: set[str] = set()
        self._sweep_monotonic = 0.0
        self._outage = Outage(
            began=lambda detail: log.warning("events.records_away", detail=detail),
            ended=lambda: log.info("events.records_returned"),
        )
        self._look, self._told = asyncio.Event(), asyncio.Event()
        self._pace = LookPace(notices, RECORDS, POLL_SECONDS, self._told.set)

    def wake(self) -> None:
        """The lease may be free: it is asked for at once."""
        self._look.set()

    async def run(self) -> None:
        """Until cancelled. Neither a broker nor a database that is away ends it."""
        await lead(self._database, LEASE, self._owner, self._session, look=self._look)

    async def _session(self) -> None:
        await ControlSession("records", self._settings.broker, serve=self._serve).run()

    async def _serve(self, client: StrictClient) -> None:
        while True:
            self._told.clear()
            busy = False
            with self._outage.of_store():
                busy = await self.round(client)
            goes_on = bool(self._resting) or self._outage.is_away or self._is_sweep_due()
            seconds = self._pace.seconds(found=busy or goes_on)
            if not busy:
                await self._pause(client, seconds)

    def _is_sweep_due(self) -> bool:
        return clock.monotonic() >= self._sweep_monotonic

    async def _pause(self, client: StrictClient, seconds: float) -> None:
        """So long, until there are records, or until the connection has ended: then there is nothing to wait
        for.
        """
        ended, told = asyncio.ensure_future(client.ended()), asyncio.ensure_future(occurred(self._told))
        try:
            done, _ = await asyncio.wait({ended, told}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            told.cancel()
        if ended in done:
            raise aiomqtt.MqttError("the connection has ended")

    async def round(self, client: StrictClient) -> bool:
        """A turn of each customer that has something to be told; whether there was anything. Raises
        MqttError, StoreError.
        """
        now, busy = clock.monotonic(), False
        for customer, position in (await records.behind(self._database)).items():
            if self._resting.get(customer, 0.0) <= now:
                with self._pressure.company():
                    busy |= await self._turn(client, customer, position)
        if now >= self._sweep_monotonic and not await self._sweep(client):
            self._sweep_monotonic = now + SWEEP_SECONDS
        return busy

    async def _rest(self, began: float) -> None:
        """After a step of a turn, which began then."""
        now = clock.monotonic()
        if rest := self._pressure.rest(now - began, now=now, times=RESTS):
            await asyncio.sleep(min(rest, MAX_REST_SECONDS))

    async def _turn(self, client: StrictClient, customer: str, position: int) -> bool:
        try:
            with contained("records", customer, passes=(aiomqtt.MqttError,)):
                await self._tell(client, customer, position)
                self._resting.pop(customer, None)
                self._refused.discard(customer)
                return True
        except PublishRefused as error:
            self._refuse(customer, error)
        except aiomqtt.MqttError:
            # perhaps one of its records is more than the broker takes: others first, when we are connected
            # again
            self._resting[customer] = clock.monotonic() + BROKEN_SECONDS
            raise
        else:  # a fault of ours, or one of its records that PostgreSQL refuses: the log has it
            self._resting[customer] = clock.monotonic() + REFUSED_SECONDS
        return False

    async def _tell(self, client: StrictClient, customer: str, position: int) -> None:
        is_active = self._pressure.is_active(now=clock.monotonic())
        at_once, together = (FEW, TOGETHER) if is_active else (AT_ONCE, AT_ONCE)
        began = clock.monotonic()
        batch, until = await records.to_tell(self._database, customer, position, at_once)
        kept = [told for told in batch if told.mode == "retained" and not told.record.deleted]
        await records.note_retained(self._database, customer, [_place(told) for told in kept], retained=True)
        await self._rest(began)
        for first in range(0, len(batch), together):
            began = clock.monotonic()
            await _all([self._tell_one(client, told) for told in batch[first : first + together]])
            await self._rest(began)
        began = clock.monotonic()
        emptied = [_place(told) for told in batch if told.retained and told not in kept]
        await records.note_retained(self._database, customer, emptied, retained=False)
        await records.told(self._database, customer, until)
        await self._rest(began)

    async def _tell_one(self, client: StrictClient, told: RecordToPublish) -> None:
        record = told.record
        topic = self._topic(_place(told))
        keeps = told.mode == "retained" and not record.deleted
        if told.mode != "off":
            await client.publish_once(
                topic,
                record_payload(record),
                retain=keeps,
                content_type="application/json",
                expiry_seconds=None if keeps else EXPIRY_SECONDS,
            )
            metrics.RECORDS_PUBLISHED.labels("told").inc()
        if told.retained and not keeps:
            await client.retain(topic, b"")

    async def _sweep(self, client: StrictClient) -> bool:
        """Empties what is retained of connections that retain nothing any more, and removes records of those
        that ended. Whether there was anything.
        """
        unwanted = await records.unwanted(self._database, AT_ONCE)
        await _all([self._empty(client, place) for place in unwanted])
        for customer in {place.customer for place in unwanted}:
            own = [place for place in unwanted if place.customer == customer]
            await records.note_retained(self._database, customer, own, retained=False)
        ended = await records.of_ended(self._database, AT_ONCE * 5)
        await _all([self._empty(client, place) for place in ended if place.retained])
        if ended:
            await records.remove(self._database, ended)
        return bool(unwanted or ended)

    async def _empty(self, client: StrictClient, place: RecordPlace) -> None:
        """Where the broker refuses even that, it holds nothing of ours."""
        try:
            await client.retain(self._topic(place), b"")
        except PublishRefused as error:
            self._refuse(place.customer, error)

    def _refuse(self, customer: str, error: PublishRefused) -> None:
        """The customer rests; said once."""
        self._resting[customer] = clock.monotonic() + REFUSED_SECONDS
        metrics.RECORDS_PUBLISHED.labels("refused").inc()
        if customer not in self._refused:
            self._refused.add(customer)
            log.warning(
                "events.record_refused",
                customer=customer,
                detail=str(error),
                advice="let the gateway publish under its topic root",
            )

    def _topic(self, place: RecordPlace) -> str:
        return record_topic(self._root, place.customer, place.connection, place.stream, place.key)


def _place(told: RecordToPublish) -> RecordPlace:
    record = told.record
    return RecordPlace(
        customer=record.customer,
        connection=record.connection,
        stream=record.stream,
        key=record.key,
        retained=told.retained,
    )


async def _all(publishes: Sequence[Awaitable[None]]) -> None:
    """Side by side; when each has ended, the first error is raised."""
    for error in await asyncio.gather(*publishes, return_exceptions=True):
        if isinstance(error, BaseException):
            raise error
