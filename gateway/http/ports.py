"""What HTTP needs of the other rooms, as protocols: the composition root hands in who serves them. Wiring is
`gateway.http.adapters`'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from gateway.connections.connecting import ConnectInvitation, Given, Returned
from gateway.connections.login_page import Departure
from gateway.connections.reauthorization import Arrival, Invitation, Link
from gateway.events.cloudevent import CloudEvent
from gateway.http.documents import (
    CreditsDocument,
    IncidentDocument,
    NewWebhook,
    PublicIncident,
    TransferDocument,
    WebhookCreated,
    WebhookDocument,
)
from gateway.ingest.messages import Bounds, Told
from gateway.ingest.replay import Replayed
from gateway.model.access import Caller, Principal
from gateway.model.connection import State
from gateway.model.connector import Manifest
from gateway.model.credential import TokenGrant
from gateway.model.diagnosis import Report
from gateway.model.draft import Draft
from gateway.model.exchange import RemoteMeter
from gateway.model.record import LogPlace
from gateway.model.status import ConnectionStatus
from gateway.model.verification import Verification
from gateway.settings import (
    ConnectionPatch,
    ConnectionSettings,
    CredentialSettings,
    CreditsSettings,
    IntegratorSettings,
)
from gateway.store.access import Session
from gateway.store.alerts import Alert
from gateway.store.connecting import StoredConnectLink
from gateway.store.devices import Described as DescribedDevice
from gateway.store.devices import Device, DeviceMetric, Series
from gateway.store.issues import Issue
from gateway.store.listing import Filter, Place
from gateway.store.messages import Counted, DeadMessage, Wanted
from gateway.store.quotas import OverQuota
from gateway.store.records import RecordPage, StoredRecord
from gateway.store.views import DeadLetter, DeliveredReading, Described, Run, Target, Transition


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One line of the catalogue: a connector's manifest and the JSON Schemas of what may be set."""

    manifest: Manifest
    settings_schema: Mapping[str, object]
    credentials_schema: Mapping[str, object]


class Observed(Protocol):
    """The daemon, as health and metrics show it."""

    async def alive(self) -> None:
        """Returns when the loop that takes in telemetry has turned. Raises
        RequestRefused("gateway.overloaded") when it does not.
        """
        ...

    async def checks(self) -> dict[str, bool]:
        """Which parts are well, by name; ready when all are."""
        ...

    async def exposition(self, accept: str) -> tuple[str, str]:
        """The metrics in what `accept` asks for, and their media type."""
        ...


class ConnectionService(Protocol):
    """The life of connections: `gateway.connections.service`. Every method raises RequestRefused."""

    async def create(self, wanted: ConnectionSettings, caller: Caller) -> None:
        """request.invalid, request.conflict, credits.insufficient."""
        ...

    async def change(self, connection_id: str, patch: ConnectionPatch, caller: Caller) -> None:
        """request.invalid, request.not_found, connection.disconnected."""
        ...

    async def pause(self, connection_id: str, caller: Caller) -> None:
        """connection.* where the state forbids it."""
        ...

    async def resume(self, connection_id: str, caller: Caller) -> None:
        """connection.* where the state forbids it."""
        ...

    async def retry_credentials(self, connection_id: str, caller: Caller) -> None:
        """connection.* where no credential is refused; request.conflict where there is none to try."""
        ...

    async def recheck(self, connection_id: str, caller: Caller) -> None:
        """connection.* where the state forbids it."""
        ...

    async def disconnect(self, connection_id: str, caller: Caller) -> None:
        """For good; its credits return."""
        ...

    async def synchronise(
        self, connection_id: str, *, full: bool, caller: Caller, stream: str | None = None
    ) -> None:
        """connection.* where the state forbids it; request.invalid for a stream that there is not."""
        ...

    async def confirm_deletions(self, connection_id: str, stream: str, *, caller: Caller) -> int:
        """request.conflict where nothing waits for that."""
        ...

    async def meters(self, connection_id: str) -> Sequence[RemoteMeter]:
        """Asks the system itself."""
        ...


class Verifying(Protocol):
    """`gateway.connections.verification.Verifier`."""

    async def verify(
        self, wanted: ConnectionSettings, caller: Caller, *, grant: TokenGrant | None = None
    ) -> Verification:
        """request.invalid, request.unsupported, gateway.overloaded."""
        ...


class Reader(Protocol):
    """What is stored of connections. Nothing here has a side effect but `replay`."""

    async def target(self, connection_id: str) -> Target | None: ...
    async def status(self, connections: Sequence[str]) -> Sequence[ConnectionStatus]: ...
    async def listed(self, wanted: Filter, *, after: Place, limit: int) -> Sequence[Place]: ...
    async def counts(self, wanted: Filter) -> Mapping[str, int]: ...
    async def customers(self, *, limit: int) -> Sequence[str]: ...
    async def connections(
        self,
        *,
        connection_id: str | None = None,
        customer: str | None = None,
        system: str | None = None,
        states: Sequence[State] | None = None,
        after: str = "",
        limit: int,
    ) -> Sequence[Described]: ...
    async def issues(self, connections: Sequence[str]) -> Sequence[Issue]: ...
    async def readings(
        self, connection_id: str, *, meter: str | None, after: tuple[str, datetime], limit: int
    ) -> Sequence[DeliveredReading]: ...
    async def runs(
        self, connection_id: str, *, before: tuple[datetime, int], limit: int
    ) -> Sequence[Run]: ...
    async def dead_letters(
        self, connection_id: str, *, before: tuple[datetime, int], limit: int
    ) -> Sequence[DeadLetter]: ...
    async def audit(self, connection_id: str, *, limit: int) -> Sequence[Transition]: ...
    async def alerts(
        self,
        *,
        customer: str | None = None,
        connection_id: str | None = None,
        states: Sequence[str] | None = None,
        alert: str | None = None,
        before: tuple[str, datetime] = ...,
        limit: int,
    ) -> Sequence[Alert]: ...
    async def replay(self, connection_id: str, dead_letters: Sequence[int] | None) -> int: ...


class RecordsReader(Protocol):
    """Records of one customer: `gateway.store.records.Records`."""

    async def page(
        self,
        customer: str,
        *,
        place: LogPlace,
        connection: str | None = None,
        stream: str | None = None,
        modified_after: datetime | None = None,
        limit: int,
    ) -> RecordPage: ...
    async def one(
        self, customer: str, connection: str, stream: str, key: str
    ) -> tuple[StoredRecord, Sequence[datetime]] | None: ...
    async def listed(
        self, customer: str, connection: str, stream: str, *, after: str = "", holds: str = "", limit: int
    ) -> Sequence[StoredRecord]: ...


class DevicesReader(Protocol):
    """Devices, what they sent, and which meters it feeds: `gateway.store.devices.Devices`."""

    async def page(
        self,
        customer: str | None,
        *,
        text: str = "",
        silent: bool | None = None,
        after: tuple[str, str] = ("", ""),
        limit: int,
    ) -> Sequence[Device]: ...
    async def one(self, customer: str, device: str) -> DescribedDevice | None: ...
    async def metrics(
        self, customer: str, *, text: str = "", limit: int
    ) -> Sequence[tuple[str, str | None, DeviceMetric]]: ...
    async def series(
        self, customer: str, device: str, metric: str, *, since: datetime, until: datetime, buckets: int
    ) -> Series: ...


class MessagesService(Protocol):
    """Messages that are dead letters, and quotas: `gateway.ingest.messages.Messages`."""

    async def page(self, wanted: Wanted, *, before: int = ..., limit: int) -> Sequence[DeadMessage]: ...
    async def until_now(self, wanted: Wanted) -> Wanted: ...
    async def counted(self, customer: str | None) -> Counted: ...
    async def one(self, message: int) -> Told | None: ...
    async def replay(
        self, wanted: Wanted, *, after: int = 0, limit: int, bound: str | None = None
    ) -> Replayed: ...
    async def replay_these(self, ids: Sequence[int], *, bound: str | None = None) -> Replayed: ...
    async def discard(self, wanted: Wanted, *, expected: int) -> None:
        """request.conflict where there are not as many."""
        ...

    async def discard_one(self, message: int) -> bool: ...
    async def fitting(self, wanted: Wanted) -> int: ...
    async def over(
        self, customer: str | None, *, after: tuple[str, str] = ("", ""), limit: int
    ) -> Sequence[OverQuota]: ...
    async def bounds(self, customer: str) -> Bounds: ...


class Access(Protocol):
    """Tokens, login links and sessions."""

    async def identify(self, token: str) -> tuple[Principal, str] | None: ...
    async def redeem_login(self, secret: str) -> Session | None: ...
    async def open_session(self, principal: Principal, token_id: str) -> Session: ...
    async def identify_session(self, secret: str) -> Session | None: ...
    async def close_session(self, secret: str) -> None: ...


class CreditsReader(Protocol):
    """The pool. `customer`: only what is this customer's."""

    async def read(self, customer: str | None) -> CreditsDocument: ...
    async def total(self, customer: str | None) -> CreditsDocument:
        """As `read`, without what each customer has."""
        ...

    async def transfers(
        self, customer: str | None, *, before: int, limit: int
    ) -> Sequence[TransferDocument]: ...


class IncidentsReader(Protocol):
    """Incidents. `customer`: only those that touch this customer, with its own connections only."""

    async def incidents(
        self, customer: str | None, *, closed: bool, after: str | None, limit: int
    ) -> Sequence[IncidentDocument]: ...
    async def incident(self, incident: str, customer: str | None) -> IncidentDocument | None: ...
    async def public(self) -> Sequence[PublicIncident]: ...


class EventsReader(Protocol):
    """What was told in the last 30 days."""

    async def events(
        self, customer: str | None, *, after: int, limit: int
    ) -> Sequence[tuple[int, CloudEvent]]:
        """Position and CloudEvent, in the order of the outbox."""
        ...


class Webhooks(Protocol):
    """Endpoints. `customer`: only this customer's; of another's there is nothing to find:
    RequestRefused("request.not_found").
    """

    async def webhooks(self, customer: str | None) -> Sequence[WebhookDocument]: ...
    async def create(self, wanted: NewWebhook) -> WebhookCreated: ...
    async def rotate(self, webhook: str, customer: str | None) -> str: ...
    async def delete(self, webhook: str, customer: str | None) -> None: ...
    async def replay(self, webhook: str, customer: str | None, *, since: datetime) -> int: ...


class Doctoring(Protocol):
    """`gateway.doctor.Doctor`."""

    async def report(self) -> Report:
        """What is not as it should be; made anew at most once in some seconds."""
        ...


class ConnectingPort(Protocol):
    """`gateway.connections.connecting.Connecting`."""

    async def invite(
        self, customer: str, systems: Sequence[str], given: Given, *, by: str, lifetime: timedelta = ...
    ) -> ConnectInvitation: ...
    async def links(self, customer: str | None) -> Sequence[StoredConnectLink]: ...
    async def revoke(self, link: str, customer: str | None, *, by: str) -> None: ...
    async def check_given(
        self, customer: str, systems: Sequence[str], given: Given, caller: Caller
    ) -> None: ...
    async def look(self, secret: str) -> StoredConnectLink | None: ...
    def given(self, link: StoredConnectLink, secret: str) -> Given: ...
    async def begin(
        self, draft: Draft, owner: str, *, link: tuple[StoredConnectLink, str] | None = None
    ) -> str: ...
    async def draft(self, secret: str, owner: str) -> Draft: ...
    async def keep(self, secret: str, owner: str, draft: Draft) -> None: ...
    async def check(self, draft: Draft, caller: Caller, *, credentials: bool) -> None: ...
    async def verify(self, secret: str, owner: str, draft: Draft, caller: Caller) -> Draft: ...
    async def depart(self, secret: str, owner: str, draft: Draft) -> Departure: ...
    async def arrive(self, *, state: str, browser: str, code: str | None) -> Returned | None: ...
    async def finish(
        self, secret: str, owner: str, draft: Draft, caller: Caller, *, link: str | None
    ) -> str: ...


class Reauthorizing(Protocol):
    """`gateway.connections.reauthorization.Reauthorization`."""

    async def invite(self, connection: str) -> Invitation: ...
    async def look(self, secret: str) -> Link | None: ...
    async def submit(self, secret: str, credentials: CredentialSettings, caller: Caller) -> None: ...
    async def retry(self, secret: str, caller: Caller) -> None: ...
    async def depart(self, secret: str) -> Departure: ...
    async def arrive(self, *, state: str, browser: str, code: str | None, caller: Caller) -> Arrival: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything that answers a request. `authentication` False: whoever reaches the port is an admin."""

    connections: ConnectionService
    verifier: Verifying
    reader: Reader
    records: RecordsReader
    devices: DevicesReader
    messages: MessagesService
    access: Access
    credits: CreditsReader
    incidents: IncidentsReader
    events: EventsReader
    webhooks: Webhooks
    reauthorization: Reauthorizing
    doctor: Doctoring
    connecting: ConnectingPort
    catalogue: Mapping[str, System]
    prices: CreditsSettings
    public_url: str
    integrator: IntegratorSettings = field(default_factory=IntegratorSettings)
    retention: timedelta = timedelta(days=100)
    customers: Callable[[], Sequence[str]] = tuple
    authentication: bool = True
