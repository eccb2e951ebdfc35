"""What answers the requests of HTTP, and who wires it: the store, the service of connections, the ledger,
incidents. `assemble` is called by the composition root.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal

from gateway import clock
from gateway.connections import building
from gateway.connections.connecting import Connecting
from gateway.connections.login_page import LoginPage
from gateway.connections.reauthorization import Reauthorization
from gateway.connections.screening import reach_of
from gateway.connections.service import Connections
from gateway.connections.verification import Verifier
from gateway.credentials.vault import Vault
from gateway.events.cloudevent import CloudEvent, cloud_event
from gateway.events.webhook_service import WebhookService
from gateway.http.documents import CreditsDocument, IncidentDocument, PublicIncident, TransferDocument
from gateway.http.live import Live
from gateway.http.live_messages import LiveMessages
from gateway.http.ports import CatalogueEntry, Doctoring, LoginsPort
from gateway.http.remote_meters import AskedMeters
from gateway.ingest.messages import Messages
from gateway.model.access import Principal, Role
from gateway.model.credits import Book, Transfer, by_customer
from gateway.model.event import EventType
from gateway.model.identity import ProvenLogin, ProvenLogout
from gateway.settings import (
    CreditsSettings,
    IntegratorSettings,
    Settings,
)
from gateway.store import access, incidents, outbox
from gateway.store import credits as ledger
from gateway.store.access import BrowserSession, NewToken, OpenSession, Token
from gateway.store.devices import Devices
from gateway.store.incidents import Incident
from gateway.store.pool import Database
from gateway.store.records import Records
from gateway.store.views import (
    Views,
)


def assemble(
    settings: Settings,
    database: Database,
    service: Connections,
    *,
    verifier: Verifier,
    vault: Vault,
    login: LoginPage,
    systems: Mapping[str, building.ConnectedSystem],
    webhooks: WebhookService,
    doctor: Doctoring,
    messages: Messages,
    live_messages: LiveMessages,
    logins: LoginsPort | None = None,
) -> Services:
    """What `HttpServer.serve` is given."""
    public_url, reach = settings.http.public_url, partial(reach_of, settings)
    by_link: dict[str, Any] = {"public_url": public_url, "vault": vault, "login": login, "reach": reach}
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
        webhooks=webhooks,
        verifier=verifier,
        connecting=Connecting(database, service, verifier, **by_link),
        reauthorization=Reauthorization(database, service, **by_link),
        doctor=doctor,
        logins=logins,
        live=Live(database, limit=settings.http.max_connections_per_address // LIVE_SHARE),
        live_messages=live_messages,
        catalogue=catalogue(systems),
        prices=settings.credits,
        public_url=public_url,
        integrator=settings.integrator,
        retention=settings.telemetry.buffer or settings.telemetry.retention,
        customers=lambda: known_customers(service.settings),
        authentication=settings.http.authentication,
    )


def known_customers(settings: Settings) -> tuple[str, ...]:
    """Who may be a customer; empty: anybody, for a first message registers whoever is not listed."""
    return () if settings.telemetry.auto_register_customers else settings.customers


def catalogue(systems: Mapping[str, building.ConnectedSystem]) -> Mapping[str, CatalogueEntry]:
    """The registry as the API and the forms show it."""
    return {
        name: CatalogueEntry(
            manifest=system.manifest,
            settings_schema=system.settings_model.model_json_schema(by_alias=True),
            credentials_schema=system.credentials_model.model_json_schema(by_alias=True),
        )
        for name, system in systems.items()
    }


LIVE_SHARE = 4
"""Pages that are live may hold a quarter of the connections that one address may have: behind a proxy all
have one address.
"""

TRUST_SECONDS = 1.0
"""How long an answer about a token is believed: a program that polls is looked up once a second, and a
revoked token is refused within it.
"""

MAX_TRUSTED = 1_000
_NOBODY: tuple[float, None] = (-math.inf, None)


class StoredAccess:
    """Tokens, login links and sessions in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._trusted: dict[bytes, tuple[float, tuple[Principal, str]]] = {}

    def trusted(self, token: str) -> tuple[Principal, str] | None:
        """Whose token it is, and its id, where that was looked up within a second."""
        until, found = self._trusted.get(access.hashed(token), _NOBODY)
        return found if clock.monotonic() < until else None

    async def identify(self, token: str) -> tuple[Principal, str] | None:
        """Whose token it is, and its id. What is refused is looked up each time."""
        if (known := self.trusted(token)) is not None:
            return known
        key, now = access.hashed(token), clock.monotonic()
        found = await access.identify(self._database, token)
        if len(self._trusted) >= MAX_TRUSTED:
            self._trusted.clear()
        if found is None:
            self._trusted.pop(key, None)
        else:
            self._trusted[key] = (now + TRUST_SECONDS, found)
        return found

    async def redeem_login(self, secret: str) -> BrowserSession | None:
        """A session for a login link."""
        return await access.redeem_login(self._database, secret)

    async def open_session(self, principal: Principal, token_id: str) -> BrowserSession:
        """A session for a token."""
        return await access.open_session(self._database, principal, token_id)

    async def finish_login(self, login: ProvenLogin) -> BrowserSession | None:
        """A session for somebody whom the identity provider vouches for."""
        return await access.finish_login(self._database, login)

    async def end_sessions(self, logout: ProvenLogout) -> Sequence[str]:
        """Logs out whom the identity provider has logged out; their names, one for each session."""
        return await access.end_sessions(self._database, logout)

    async def identify_session(self, secret: str) -> BrowserSession | None:
        """The session of a cookie."""
        return await access.identify_session(self._database, secret)

    async def close_session(self, secret: str) -> None:
        """Logs out."""
        await access.close_session(self._database, secret)

    async def open_sessions(self, customer: str | None, *, limit: int) -> Sequence[OpenSession]:
        """Who is logged in, the latest first."""
        return await access.open_sessions(self._database, customer, limit=limit)

    async def end_session(self, session_id: str, customer: str | None) -> str | None:
        """Logs somebody out: their name; None where there is no such session."""
        return await access.end_session(self._database, session_id, customer)

    async def made_tokens(self, customer: str | None) -> Sequence[Token]:
        """The newest first."""
        found = await access.tokens(self._database)
        return [token for token in found if customer in (None, token.customer)]

    async def create_token(
        self, *, name: str, role: Role, customer: str | None, expires_at: datetime | None
    ) -> NewToken:
        """A token that nobody can read again."""
        return await access.create(
            self._database, name=name, role=role, customer=customer, expires_at=expires_at
        )

    async def revoke_token(self, token: str) -> None:
        """Ends it, and the sessions that came by it; here it is believed no more from now on."""
        await access.revoke(self._database, token)
        self._trusted.clear()


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

    async def public(self, *, days: int) -> Sequence[PublicIncident]:
        """What anybody may know of those that are open, or were within these days."""
        found = await incidents.public(self._database, days=days)
        return [PublicIncident.model_validate(one) for one in found]


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

    async def latest(
        self,
        customer: str | None,
        *,
        connection: str | None,
        type_: EventType | None,
        since: datetime,
        limit: int,
    ) -> Sequence[CloudEvent]:
        """The newest first."""
        found = await outbox.latest(
            self._database,
            customer=customer,
            connection_id=connection,
            types=None if type_ is None else (type_,),
            since=since,
            limit=limit,
        )
        return [cloud_event(event, instance=self._instance) for event in reversed(found)]


def _incident_state(found: Incident) -> Literal["open", "recovering", "closed"]:
    if found.closed_at is not None:
        return "closed"
    return "open" if found.calm_since is None else "recovering"


def _incident(found: Incident) -> IncidentDocument:
    return IncidentDocument(
        id=found.incident,
        scope=found.scope.value,
        state=_incident_state(found),
        since=found.since,
        opened_at=found.opened_at,
        closed_at=found.closed_at,
        systems=found.systems,
        operations=found.operations,
        connections=found.connections,
        request_ids=found.request_ids,
        detail=found.detail,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything that answers a request. `authentication` False: whoever reaches the port is an admin."""

    connections: Connections
    verifier: Verifier
    reader: Views
    records: Records
    devices: Devices
    messages: Messages
    access: StoredAccess
    credits: Ledger
    incidents: StoredIncidents
    events: StoredEvents
    webhooks: WebhookService
    reauthorization: Reauthorization
    doctor: Doctoring
    connecting: Connecting
    live: Live
    live_messages: LiveMessages
    catalogue: Mapping[str, CatalogueEntry]
    prices: CreditsSettings
    public_url: str
    integrator: IntegratorSettings = field(default_factory=IntegratorSettings)
    retention: timedelta = timedelta(days=100)
    customers: Callable[[], Sequence[str]] = tuple
    authentication: bool = True
    remote_meters: AskedMeters = field(default_factory=AskedMeters)
    logins: LoginsPort | None = None
