"""Who serves the ports of HTTP: the store, the lifecycle's service, the ledger, incidents. One place to wire,
called by the composition root.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from gateway import clock
from gateway.connections import links
from gateway.connections.connecting import Connecting
from gateway.connections.login_page import LoginPage
from gateway.connections.reauthorization import Reauthorization
from gateway.connections.screening import reach_of
from gateway.connections.service import Connections
from gateway.connections.vault import Vault
from gateway.connections.verification import Verifier
from gateway.events.cloudevent import CloudEvent, cloud_event
from gateway.events.webhook_service import WebhookService
from gateway.http.documents import (
    CreditsDocument,
    IncidentDocument,
    NewWebhook,
    PublicIncident,
    TransferDocument,
    WebhookCreated,
    WebhookDocument,
)
from gateway.http.ports import Doctoring, Services, System
from gateway.ingest.messages import Messages
from gateway.model.access import Principal
from gateway.model.credits import Book, Transfer, by_customer
from gateway.settings import Settings
from gateway.store import access, incidents, outbox
from gateway.store import credits as ledger
from gateway.store.access import Session
from gateway.store.devices import Devices
from gateway.store.incidents import Incident
from gateway.store.pool import Database
from gateway.store.records import Records
from gateway.store.views import Views
from gateway.store.webhooks import Endpoint


def assemble(
    settings: Settings,
    database: Database,
    service: Connections,
    *,
    verifier: Verifier,
    vault: Vault,
    login: LoginPage,
    systems: Mapping[str, links.System],
    webhooks: WebhookService,
    doctor: Doctoring,
    messages: Messages,
) -> Services:
    """What `HttpServer.serve` is given."""
    return Services(
        connections=service,
        reader=Views(database),
        records=Records(database),
        devices=Devices(database),
        messages=messages,
        access=StoredAccess(database),
        credits=Ledger(database),
        incidents=StoredIncidents(database),
        events=StoredEvents(database, instance=settings.instance),
        webhooks=StoredWebhooks(webhooks),
        verifier=verifier,
        connecting=Connecting(
            database,
            service,
            verifier,
            public_url=settings.http.public_url,
            vault=vault,
            login=login,
            reach=partial(reach_of, settings),
        ),
        reauthorization=Reauthorization(
            database,
            service,
            public_url=settings.http.public_url,
            vault=vault,
            login=login,
            reach=partial(reach_of, settings),
        ),
        doctor=doctor,
        catalogue=catalogue(systems),
        prices=settings.credits,
        public_url=settings.http.public_url,
        integrator=settings.integrator,
        retention=settings.telemetry.buffer or settings.telemetry.retention,
        customers=lambda: service.settings.customers,
        authentication=settings.http.authentication,
    )


def catalogue(systems: Mapping[str, links.System]) -> Mapping[str, System]:
    """The registry as the API and the forms show it."""
    return {
        name: System(
            manifest=system.manifest,
            settings_schema=system.settings_model.model_json_schema(by_alias=True),
            credentials_schema=system.credentials_model.model_json_schema(by_alias=True),
        )
        for name, system in systems.items()
    }


TRUST_SECONDS = 1.0
"""How long an answer about a token is believed: a program that polls is looked up once a second, and a
revoked token is refused within it.
"""

MOST_TRUSTED = 1_000


class StoredAccess:
    """Tokens, login links and sessions in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._trusted: dict[bytes, tuple[float, tuple[Principal, str]]] = {}

    async def identify(self, token: str) -> tuple[Principal, str] | None:
        """Whose token it is, and its id. What is refused is looked up each time."""
        key, now = access.hashed(token), clock.monotonic()
        known = self._trusted.get(key)
        if known is not None and now < known[0]:
            return known[1]
        found = await access.identify(self._database, token)
        if len(self._trusted) >= MOST_TRUSTED:
            self._trusted.clear()
        if found is None:
            self._trusted.pop(key, None)
        else:
            self._trusted[key] = (now + TRUST_SECONDS, found)
        return found

    async def redeem_login(self, secret: str) -> Session | None:
        """A session for a login link."""
        return await access.redeem_login(self._database, secret)

    async def open_session(self, principal: Principal, token_id: str) -> Session:
        """A session for a token."""
        return await access.open_session(self._database, principal, token_id)

    async def identify_session(self, secret: str) -> Session | None:
        """The session of a cookie."""
        return await access.identify_session(self._database, secret)

    async def close_session(self, secret: str) -> None:
        """Logs out."""
        await access.close_session(self._database, secret)


class Ledger:
    """Connection credits."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, customer: str | None) -> CreditsDocument:
        """The pool; or a customer's part of it, which tells nothing of the rest."""
        return credits_document(await ledger.read(self._database), customer)

    async def total(self, customer: str | None) -> CreditsDocument:
        """As `read`, without what each customer has."""
        found = await ledger.total(self._database, customer)
        pool = found.pool
        return CreditsDocument(
            capacity=None if customer is not None or pool is None else pool.capacity,
            held=found.held,
            posted=found.posted,
            available=None if customer is not None or pool is None else pool.available,
            quota=found.quota,
            by_customer={},
        )

    async def transfers(self, customer: str | None, *, before: int, limit: int) -> Sequence[TransferDocument]:
        """Lines of the ledger, the newest first."""
        return [
            _transfer(line)
            for line in await ledger.transfers(self._database, customer=customer, before=before, limit=limit)
        ]


def credits_document(book: Book, customer: str | None) -> CreditsDocument:
    """What of the ledger this customer, or whoever is bound to none, may see. Pure."""
    used = {name: share.credits for name, share in by_customer(book).items() if customer in (None, name)}
    if customer is None:
        pool = book.pool
        return CreditsDocument(
            capacity=None if pool is None else pool.capacity,
            held=0 if pool is None else pool.held,
            posted=0 if pool is None else pool.posted,
            available=None if pool is None else pool.available,
            by_customer=used,
        )
    own = [holding for holding in book.holdings if holding.customer == customer]
    amounts = {
        account: sum(holding.amount for holding in own if holding.account == account)
        for account in ("held", "posted")
    }
    return CreditsDocument(
        capacity=None, available=None, quota=book.quotas.get(customer), by_customer=used, **amounts
    )


def _transfer(line: Transfer) -> TransferDocument:
    return TransferDocument(
        id=line.number,
        at=line.at,
        connection=line.connection,
        customer=line.customer,
        kind=line.kind.value,
        from_account=line.from_account.value,
        to_account=line.to_account.value,
        amount=line.amount,
    )


class StoredIncidents:
    """Incidents in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def incidents(
        self, customer: str | None, *, closed: bool, after: str | None, limit: int
    ) -> Sequence[IncidentDocument]:
        """The latest first."""
        return [
            _incident(found)
            for found in await incidents.listed(
                self._database, closed=closed, customer=customer, after=after, limit=limit
            )
        ]

    async def incident(self, incident: str, customer: str | None) -> IncidentDocument | None:
        """One of them."""
        found = await incidents.read(self._database, incident, customer=customer)
        return None if found is None else _incident(found)

    async def public(self) -> Sequence[PublicIncident]:
        """What anybody may know."""
        return [PublicIncident.model_validate(found) for found in await incidents.public(self._database)]


class StoredEvents:
    """The outbox, as the CloudEvents that it is told in."""

    def __init__(self, database: Database, *, instance: str) -> None:
        self._database = database
        self._instance = instance

    async def events(
        self, customer: str | None, *, after: int, limit: int
    ) -> Sequence[tuple[int, CloudEvent]]:
        """The next after this position."""
        found = await outbox.read(self._database, customer=customer, after=after, limit=limit)
        return [(event.position, cloud_event(event, instance=self._instance)) for event in found]


class StoredWebhooks:
    """Endpoints, by their service."""

    def __init__(self, service: WebhookService) -> None:
        self._service = service

    async def webhooks(self, customer: str | None) -> Sequence[WebhookDocument]:
        """All of them, or a customer's."""
        return [
            WebhookDocument(**_endpoint(endpoint))
            for endpoint in await self._service.endpoints(customer=customer)
        ]

    async def create(self, wanted: NewWebhook) -> WebhookCreated:
        """Raises RequestRefused for an address that must not be called."""
        endpoint, secret = await self._service.create(
            wanted.url, customer=wanted.customer, types=wanted.events
        )
        return WebhookCreated(**_endpoint(endpoint), secret=secret)

    async def rotate(self, webhook: str, customer: str | None) -> str:
        """The new secret; the one before signs as well for a day."""
        return await self._service.rotate_secret(webhook, customer=customer)

    async def delete(self, webhook: str, customer: str | None) -> None:
        """Raises RequestRefused where there is none."""
        await self._service.delete(webhook, customer=customer)

    async def replay(self, webhook: str, customer: str | None, *, since: datetime) -> int:
        """How many events are sent again. Raises RequestRefused where there is none."""
        return await self._service.replay(webhook, customer=customer, since=since)


def _endpoint(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "id": endpoint.id,
        "url": endpoint.url,
        "events": endpoint.types,
        "customer": endpoint.customer,
        "created_at": endpoint.created_at,
        "pending": endpoint.pending,
        "failing_since": endpoint.failing_since,
        "last_error": endpoint.last_error,
        "disabled_at": endpoint.disabled_at,
        "disabled_reason": endpoint.disabled_reason,
    }


def _incident(found: Incident) -> IncidentDocument:
    return IncidentDocument(
        id=found.incident,
        scope=found.scope.value,
        state="closed"
        if found.closed_at is not None
        else "recovering"
        if found.calm_since is not None
        else "open",
        since=found.since,
        opened_at=found.opened_at,
        closed_at=found.closed_at,
        systems=found.systems,
        operations=found.operations,
        connections=found.connections,
        request_ids=found.request_ids,
        detail=found.detail,
    )
