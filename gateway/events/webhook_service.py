"""Webhook endpoints for those who keep them: make, list, remove, new secret, enable, replay. A secret is
shown once, when it is made.

`customer` in every call: only this customer's endpoints; None: all. Of another's there is nothing to find.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from urllib.parse import urlsplit
from uuid import UUID

import structlog

from gateway import clock
from gateway.events.webhook_request import fault
from gateway.events.webhooks import Sealer
from gateway.model.errors import RequestRefused
from gateway.model.event import EventType
from gateway.model.webhook import BOTH_SECRETS, SECRET_BYTES, Disabled, new_secret
from gateway.settings import WebhookSettings
from gateway.store import webhooks
from gateway.store.pool import Database
from gateway.store.webhooks import Endpoint, Secrets, Sent

log = structlog.get_logger(__name__)

MAX_ENDPOINTS = 20
"""Of one customer: every event is kept and sent for each."""


class WebhookService:
    """Raises RequestRefused for what cannot be done, StoreError while the database is away."""

    def __init__(
        self,
        settings: WebhookSettings,
        database: Database,
        sealer: Sealer,
        *,
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self._settings = settings
        self._database = database
        self._sealer = sealer
        self._now = now

    async def create(
        self, url: str, *, customer: str | None, types: Sequence[EventType] = ()
    ) -> tuple[Endpoint, str]:
        """The endpoint and its secret. `customer` None: it is told of every customer and of the gateway.
        `types` empty: of everything.
        """
        reason = fault(url, self._settings)
        if reason is not None:
            raise RequestRefused("request.invalid", f"url: {reason}")
        if customer is not None and len(await self.endpoints(customer=customer)) >= MAX_ENDPOINTS:
            raise RequestRefused(
                "request.conflict",
                f"{customer!r} has {MAX_ENDPOINTS} webhooks: remove those that it does not need",
            )
        endpoint, secret = secrets.token_hex(8), new_secret(secrets.token_bytes(SECRET_BYTES))
        sealed = self._sealer.seal(secret, endpoint=endpoint, generation=1)
        await webhooks.create(
            self._database,
            endpoint,
            customer=customer,
            url=url,
            types=tuple(dict.fromkeys(types)),
            sealed=sealed,
        )
        log.info("events.webhook_created", endpoint=endpoint, customer=customer)
        found, _ = await self._find(endpoint, None)
        return found, secret

    async def endpoints(self, *, customer: str | None) -> list[Endpoint]:
        """All of them."""
        return [endpoint for endpoint, _ in await webhooks.read(self._database, customer=customer)]

    async def delete(self, endpoint: str, *, customer: str | None) -> None:
        """It is told nothing more; what waits for it is dropped."""
        await self._find(endpoint, customer)
        await webhooks.delete(self._database, endpoint)
        log.info("events.webhook_removed", endpoint=endpoint)

    async def rotate_secret(self, endpoint: str, *, customer: str | None) -> str:
        """The new secret. The one before signs as well for 24 hours; the one before that no more."""
        _, held = await self._find(endpoint, customer)
        secret = new_secret(secrets.token_bytes(SECRET_BYTES))
        sealed = self._sealer.seal(secret, endpoint=endpoint, generation=held.generation + 1)
        until = self._now() + BOTH_SECRETS
        if not await webhooks.rotate(
            self._database, endpoint, generation=held.generation, sealed=sealed, previous_until=until
        ):
            raise RequestRefused("request.conflict", "another secret was made at this moment")
        return secret

    async def enable(self, endpoint: str, *, customer: str | None) -> None:
        """A disabled endpoint gets what was kept for it, from where it stopped."""
        await self._find(endpoint, customer)
        await webhooks.enable(self._database, endpoint)

    async def disable(self, endpoint: str, *, customer: str | None) -> None:
        """It gets nothing until it is enabled; what comes meanwhile is kept. `webhook.disabled` is told."""
        found, _ = await self._find(endpoint, customer)
        async with self._database.transaction() as connection:
            await webhooks.disable(
                connection,
                endpoint,
                now=self._now(),
                reason=Disabled.OPERATOR,
                host=urlsplit(found.url).hostname or "",
            )
        log.info("events.webhook_stopped", endpoint=endpoint)

    async def test(self, endpoint: str, *, customer: str | None) -> str:
        """The id of an event for this endpoint alone, which a gateway that runs delivers at once. Raises
        RequestRefused for one that is disabled.
        """
        found, _ = await self._find(endpoint, customer)
        if found.disabled_at is not None:
            raise RequestRefused(
                "request.conflict",
                f"the webhook is disabled ({found.disabled_reason}): enable it, then it gets the test",
            )
        event_id = await webhooks.test(self._database, endpoint)
        if event_id is None:
            raise RequestRefused("request.not_found", "there is no such webhook")
        return event_id

    async def resend(self, endpoint: str, event_id: str, *, customer: str | None) -> None:
        """One event is delivered again with its own id, marked. Raises RequestRefused for an event that there
        is not, or that is another customer's.
        """
        await self._find(endpoint, customer)
        try:
            wanted = UUID(event_id)
        except ValueError:
            raise RequestRefused("request.invalid", f"event: {event_id!r} is no event's id") from None
        if not await webhooks.resend(self._database, endpoint, wanted):
            raise RequestRefused(
                "request.not_found", "there is no such event for this webhook, or it is no longer kept"
            )

    async def sent(
        self, endpoint: str, *, customer: str | None, event_id: str | None = None, limit: int = 100
    ) -> list[Sent]:
        """Deliveries with their outcome, the newest event first."""
        await self._find(endpoint, customer)
        wanted = None if event_id is None else UUID(event_id)
        return await webhooks.sent(self._database, endpoint, event_id=wanted, limit=limit)

    async def replay(self, endpoint: str, *, customer: str | None, since: datetime | str) -> int:
        """Every event from a time, or from the event with this id, is delivered again with its own id and
        marked; how many. A disabled endpoint is enabled.
        """
        await self._find(endpoint, customer)
        at = await webhooks.event_time(self._database, since) if isinstance(since, str) else since
        if at is None:
            raise RequestRefused("request.invalid", "from: there is no such event, or it is no longer kept")
        count = await webhooks.replay(self._database, endpoint, since=at)
        await webhooks.enable(self._database, endpoint)
        return count

    async def _find(self, endpoint: str, customer: str | None) -> tuple[Endpoint, Secrets]:
        found = await webhooks.read(self._database, endpoint=endpoint, customer=customer)
        if not found:
            raise RequestRefused("request.not_found", "there is no such webhook")
        return found[0]
