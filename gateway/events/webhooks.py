"""Outbox to webhooks: in order for each endpoint and connection, those side by side, no endpoint waiting for
another. Every replica takes part.

An attempt is counted before it is made, so that whatever is sent again is marked as such. Schedules and
leases live in the database.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from importlib.metadata import version
from typing import Protocol
from urllib.parse import urlsplit

import structlog

from gateway import clock, metrics, tracing
from gateway.bulkhead import contained
from gateway.events.cloudevent import CONTENT_TYPE, cloud_event
from gateway.events.webhook_request import Requests
from gateway.model.errors import SealBroken, StoreError
from gateway.model.webhook import AttemptOutcome, signature, verdict, wait_after
from gateway.outage import Outage
from gateway.settings import Settings
from gateway.store import webhooks
from gateway.store.notices import EVENTS, LookPace, Notices
from gateway.store.pool import Database
from gateway.store.webhooks import Secrets, WebhookDelivery

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.5
PER_ENDPOINT = 4
AT_ONCE = 256
IN_A_ROW = 50
LEASE_MARGIN_SECONDS = 30.0
RECORD_SECONDS = 0.5
GOODBYE_SECONDS = 3.0


class Sealer(Protocol):
    """Seals endpoints' secrets for their place: the endpoint and the secret's generation."""

    def seal(self, secret: str, *, endpoint: str, generation: int) -> bytes:
        """A record that opens for the same place only."""

    def open(self, sealed: bytes, *, endpoint: str, generation: int) -> str:
        """The secret. Raises SealBroken."""


class WebhookSender:
    """One for each replica. `now` and `rand` are the schedule's; leases are on the database's clock."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        sealer: Sealer,
        *,
        requests: Requests,
        now: Callable[[], datetime] = clock.now,
        rand: Callable[[], float] = random.random,
        notices: Notices | None = None,
    ) -> None:
        """`notices` tells of events; without it they are asked for."""
        self._instance = settings.instance
        self._database = database
        self._sealer = sealer
        self._requests = requests
        self._lease_seconds = settings.webhooks.timeout.total_seconds() + LEASE_MARGIN_SECONDS
        self._now = now
        self._rand = rand
        self._busy: Counter[str] = Counter()
        self._lanes: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._pace = LookPace(notices, EVENTS, POLL_SECONDS, self._wake.set)
        self._stopping = False
        self._outage = Outage(
            began=lambda detail: log.warning("events.webhooks_deferred", detail=detail),
            ended=lambda: log.info("events.webhooks_resumed"),
        )

    @property
    def busy(self) -> bool:
        """Whether an attempt is under way."""
        return bool(self._lanes)

    def wake(self) -> None:
        """There may be something to deliver: looks at once."""
        self._wake.set()

    async def run(self) -> None:
        """Until `stop`, or cancellation, which gives attempts under way a moment to end. A database that is
        away does not end it.
        """
        try:
            while not self._stopping:
                self._wake.clear()
                wait = await self._begin()
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
            await asyncio.gather(*self._lanes)
        finally:
            self._stopping = True
            if self._lanes:
                await asyncio.wait(self._lanes, timeout=GOODBYE_SECONDS)
            for lane in self._lanes:
                lane.cancel()
            await asyncio.gather(*self._lanes, return_exceptions=True)
            await self._requests.close()

    def stop(self) -> None:
        """Begins nothing more; `run` returns when the attempts under way have ended, each within its time-
        out.
        """
        self._stopping = True
        self._wake.set()

    async def _begin(self) -> float:
        """Begins what is due; how long to wait for what is due next, where nobody tells of more."""
        next_seconds = None
        try:
            wanted = await webhooks.due(
                self._database,
                now=self._now(),
                busy=+self._busy,
                per_endpoint=PER_ENDPOINT,
                limit=max(0, AT_ONCE - len(self._lanes)),
            )
            taken = (
                await webhooks.take(
                    self._database, wanted, now=self._now(), lease_seconds=self._lease_seconds
                )
                if wanted
                else []
            )
            wait = self._pace.seconds(found=bool(wanted))
            if wait > POLL_SECONDS:
                next_seconds = await webhooks.seconds_to_next(self._database, now=self._now())
        except StoreError as error:
            self._outage.note(str(error))
            return POLL_SECONDS
        self._outage.note(None)
        for delivery in taken:
            self._busy[delivery.endpoint] += 1
            lane = asyncio.create_task(self._deliver(delivery), name=f"webhook {delivery.endpoint}")
            self._lanes.add(lane)
            lane.add_done_callback(partial(self._ended, endpoint=delivery.endpoint))
        # what is due and was not begun is another's, or waits for a place: asked for as if nobody told
        return wait if next_seconds is None else min(wait, max(next_seconds, POLL_SECONDS))

    def _ended(self, lane: asyncio.Task[None], *, endpoint: str) -> None:
        self._lanes.discard(lane)
        self._busy[endpoint] -= 1
        self._wake.set()

    async def _deliver(self, delivery: WebhookDelivery) -> None:
        """This one and what follows it in its lane, as long as the endpoint takes them; then others get a
        turn.
        """
        with contained("webhook", delivery.endpoint):
            await self._deliver_in_a_row(delivery)

    async def _deliver_in_a_row(self, delivery: WebhookDelivery) -> None:
        for _ in range(IN_A_ROW):
            outcome, error = AttemptOutcome.UNREACHABLE, None
            with contained("webhook", delivery.endpoint, secrets=(delivery.url,)) as made:
                outcome, error = await self._attempt(delivery)
            if made.fault is not None:
                error = made.fault.text
            metrics.WEBHOOK_DELIVERIES.labels(outcome).inc()
            await self._record(delivery, outcome, error)
            if outcome is not AttemptOutcome.DELIVERED or self._stopping:
                return
            try:
                position = await webhooks.head(self._database, delivery.endpoint, delivery.event.lane)
                wanted = [] if position is None else [(delivery.endpoint, position)]
                taken = (
                    await webhooks.take(
                        self._database, wanted, now=self._now(), lease_seconds=self._lease_seconds
                    )
                    if wanted
                    else []
                )
            except StoreError:
                return  # found again when the database is back
            if not taken:
                return
            [delivery] = taken

    async def _attempt(self, delivery: WebhookDelivery) -> tuple[AttemptOutcome, str | None]:
        now = self._now()
        body = cloud_event(delivery.event, instance=self._instance).payload()
        timestamp = int(now.timestamp())
        try:
            secrets = self._open(delivery.endpoint, delivery.secrets, now)
        except SealBroken as error:
            return AttemptOutcome.FORBIDDEN, str(error)
        headers = {
            "content-type": CONTENT_TYPE,
            "user-agent": f"fieldgate/{version('fieldgate')}",
            "webhook-id": delivery.event.event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(
                secrets, message_id=delivery.event.event_id, timestamp=timestamp, body=body
            ),
            "fieldgate-attempt": str(delivery.attempt),
        }
        if delivery.replay:
            headers["fieldgate-replay"] = "true"
        with tracing.span("webhook.attempt", endpoint=delivery.endpoint):
            outcome = await self._requests.post(delivery.url, body, {**headers, **tracing.traceparent()})
            tracing.add(outcome=outcome[0].value)
        return outcome

    def _open(self, endpoint: str, secrets: Secrets, now: datetime) -> list[str]:
        opened = [self._sealer.open(secrets.secret, endpoint=endpoint, generation=secrets.generation)]
        if (
            secrets.previous is not None
            and secrets.previous_until is not None
            and now < secrets.previous_until
        ):
            opened.append(
                self._sealer.open(secrets.previous, endpoint=endpoint, generation=secrets.generation - 1)
            )
        return opened

    async def _record(self, delivery: WebhookDelivery, outcome: AttemptOutcome, error: str | None) -> None:
        """Stores the outcome of the attempt. While the database is away it is kept, until the lease has run
        out and another attempt may come.
        """
        until = clock.monotonic() + self._lease_seconds
        while True:
            try:
                if outcome is AttemptOutcome.DELIVERED:
                    await webhooks.delivered(self._database, delivery, now=self._now())
                else:
                    await self._record_failure(delivery, outcome, error or "")
            except StoreError as error_of_store:
                self._outage.note(str(error_of_store))
                if clock.monotonic() > until:
                    return
                await asyncio.sleep(RECORD_SECONDS)
            else:
                return

    async def _record_failure(self, delivery: WebhookDelivery, outcome: AttemptOutcome, error: str) -> None:
        now = self._now()
        wait: timedelta | None = wait_after(delivery.tried, rand=self._rand())
        disabled = None
        async with self._database.transaction() as connection:
            next_at = (
                None if wait is None and outcome is not AttemptOutcome.GONE else now + (wait or timedelta())
            )
            since = await webhooks.failed(connection, delivery, now=now, next_at=next_at, error=error)
            if since is not None:
                reason = verdict(outcome, failing_since=since, now=now)
                host = urlsplit(delivery.url).hostname or ""
                if reason is not None and await webhooks.disable(
                    connection, delivery.endpoint, now=now, reason=reason, host=host
                ):
                    disabled = reason
        if since is None:
            return
        if since == now:
            log.warning("events.webhook_failing", endpoint=delivery.endpoint, detail=error)
        if next_at is None:
            log.error(
                "events.webhook_given_up",
                endpoint=delivery.endpoint,
                event_id=delivery.event.event_id,
                attempts=delivery.attempt,
            )
        if disabled is not None:
            log.error("events.webhook_disabled", endpoint=delivery.endpoint, reason=disabled, detail=error)
