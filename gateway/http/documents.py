"""The bodies of `/v1`, as Pydantic models: the OpenAPI document is generated from them. Those of devices,
messages, webhooks and the doctor are in modules beside this one; status documents are
`gateway.events.documents`'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gateway.configuration.schema import meter_as_given
from gateway.events.documents import IssueDocument
from gateway.model.connection import State
from gateway.model.verification import Verdict
from gateway.settings import ConnectionSettings, CredentialSettings, Title
from gateway.settings_base import Identifier, Section
from gateway.store.views import DescribedConnection

ItemT = TypeVar("ItemT")


class Document(BaseModel):
    """Frozen; made from our own dataclasses by their attributes."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class Page(Document, Generic[ItemT]):
    """A part of a list."""

    items: tuple[ItemT, ...]
    next: str | None = Field(description="The `cursor` of the next page; null: this is the last.")


class CapabilitiesDocument(Document):
    """What the system can do; see the connector's page."""

    push: str
    max_items: int
    max_bytes: int | None
    order: str
    resolution_seconds: float
    max_backfill_seconds: float | None
    dedup: str
    readback: str
    can_create_meter: bool
    can_raise_event: bool
    values: tuple[str, ...]
    auth: tuple[str, ...]
    delivery: Literal["exactly_once", "at_least_once"]


class InboundStreamDocument(Document):
    """Records that can be read back from the system."""

    name: str
    title: str
    cursor: Literal["modified", "id", "listing"] = Field(
        description="How what is new is asked for: by time of change, by a growing key, or by the whole list."
    )
    key: tuple[str, ...] = Field(description="The system's own fields that name a record.")
    deletions: Literal["tombstones", "keys", "listing", "none"] = Field(description="How a deletion is seen.")
    default: bool = Field(description="Read unless `sync.pull` says otherwise.")
    lists_open: bool = Field(description="What is still open is read at once, however old.")
    lookback_seconds: float
    settle_seconds: float
    example: dict[str, object] = Field(description="A body.")


class SystemDocument(Document):
    """A system that can be connected."""

    system: str
    title: str
    tier: Literal[1, 2, 3]
    hosting: tuple[str, ...]
    credits: dict[str, int] = Field(description="What a connection costs, by hosting.")
    capabilities: CapabilitiesDocument
    raises: dict[str, str | None] = Field(
        description="What an alert can become, each with the stream in which it is followed; null: in none."
    )
    streams: tuple[InboundStreamDocument, ...] = Field(
        description="Of the manifest; a generic system has those that its settings name."
    )
    reauthorization: str = Field(description="Instructions for the customer's administrator.")
    settings_schema: dict[str, object]
    credentials_schema: dict[str, object]


class Systems(Document):
    """The catalogue."""

    items: tuple[SystemDocument, ...]


class _ConnectionFacts(Document):
    """Without its rules, which may be thousands."""

    id: str = Field(validation_alias="connection")
    title: str | None = Field(None, description="Its name on pages.")
    customer: str
    system: str
    hosting: Literal["cloud", "on_premises"]
    tier: int
    credits: int = Field(validation_alias="price")
    state: State
    reason: str | None
    since: datetime
    version: int
    managed_by: str
    settings: dict[str, object]
    sync: dict[str, object]
    meter_rules: int = Field(description="How many `meters` has.")
    alert_rules: int = Field(description="How many `alerts` has.")
    credential_type: str
    account: str | None
    created_at: datetime
    request_id: str | None
    issues: tuple[IssueDocument, ...]


class ConnectionDocument(_ConnectionFacts):
    """A connection as it was asked for, and where it is. Credentials are never shown."""

    meters: tuple[dict[str, object], ...]
    alerts: tuple[dict[str, object], ...] = ()

    @field_validator("meters", mode="before")
    @classmethod
    def _as_given(cls, stored: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
        """As a `PATCH` takes them: what is reckoned stands beside the rest, and a duration is `15m`,
        not a number whose unit nobody knows.
        """
        return [meter_as_given(meter) for meter in stored]


class ListedConnectionDocument(_ConnectionFacts):
    """A connection of a list. With `rules=false` it has no `meters` and `alerts`; the connection itself has
    all of them.
    """

    meters: tuple[dict[str, object], ...] | None = None
    alerts: tuple[dict[str, object], ...] | None = None

    @classmethod
    def of(cls, found: DescribedConnection, *, rules: bool) -> ListedConnectionDocument:
        """As it was read, with or without its rules."""
        whole = ConnectionDocument.model_validate(found)
        shown = {name: getattr(whole, name) for name in cls.model_fields}
        return cls.model_construct(**(shown if rules else {**shown, "meters": None, "alerts": None}))


class RemoteMeterDocument(Document):
    """Something at the system that readings can be written to."""

    meter: str
    title: str
    unit: str | None


class VerificationRequest(Section):
    """What a connection would be made of; nothing of it is kept."""

    customer: Identifier
    system: str
    hosting: Literal["cloud", "on_premises"] = "cloud"
    settings: dict[str, object] = Field({})
    credentials: CredentialSettings = CredentialSettings()

    def connection(self) -> ConnectionSettings:
        """As a connection that nobody makes."""
        return ConnectionSettings(
            id="verification", **{name: getattr(self, name) for name in self.__class__.model_fields}
        )


class ReadableDocument(Document):
    """Records that the system has."""

    stream: str
    title: str
    detail: str = Field("", description="Why they could not be read; empty where they could.")


class VerificationDocument(Document):
    """What the system answered, in its own words. Nothing was stored or charged."""

    verdict: Verdict = Field(
        description=(
            "refused: the credential; denied: what it may do; misconfigured: the settings do not fit; busy:"
            " the system asks to wait; unavailable: no answer."
        )
    )
    detail: str
    account: str | None = Field(description="Whose data the credential reaches, where the system says so.")
    records: tuple[ReadableDocument, ...]
    meters: tuple[RemoteMeterDocument, ...] | None = Field(
        description="The first meters of a system that lists them."
    )
    meters_detail: str
    request_id: str | None
    retry_after: float | None = Field(description="Seconds.")


class SynchroniseRequest(Section):
    """`full` walks the initial window again; what is equal is not sent again. `stream`: of records, and only
    that one.
    """

    mode: Literal["incremental", "full"] = "incremental"
    stream: str | None = Field(None, pattern=r"^[a-z][a-z0-9_]{0,63}$")


class DeletionsConfirmed(Document):
    """How many records the next walk may delete."""

    records: int


class RequestAccepted(Document):
    """What was asked is under way: follow it in the connection's status."""

    connection: str
    state: State
    version: int


class ReauthorizationDocument(Document):
    """Whoever has the address can give this connection new credentials: send it to the customer's
    administrator only.
    """

    url: str
    expires_at: datetime


class NewConnectLink(Section):
    """What a customer's administrator may connect, and what is given ahead: settings and an OAuth client of
    the one system that is named. They cannot be changed by whoever follows the link.
    """

    customer: Identifier
    systems: tuple[str, ...] = Field(min_length=1, max_length=50)
    hosting: Literal["cloud", "on_premises"] = "cloud"
    title: Title | None = None
    settings: dict[str, object] = Field({})
    credentials: CredentialSettings | None = None
    days: int = Field(7, ge=1, le=90, description="How long it is good.")


class ConnectLinkCreated(Document):
    """Whoever has the address can connect a system of the customer: send it to their administrator only."""

    id: str
    url: str
    expires_at: datetime


class ConnectLinkDocument(Document):
    """A link, without its address."""

    id: str
    customer: str
    systems: tuple[str, ...]
    state: Literal["open", "used", "revoked", "expired"]
    created_at: datetime
    created_by: str
    expires_at: datetime
    revoked_at: datetime | None
    connection: str | None = Field(description="What was connected with it.")


class ConnectLinks(Document):
    """At most 500, the newest first."""

    items: tuple[ConnectLinkDocument, ...]


class RemoteMeters(Document):
    """What the system itself says."""

    items: tuple[RemoteMeterDocument, ...]


class ReadingDocument(Document):
    """What the system holds for a window."""

    meter: str
    window_start: datetime
    value: float | int | bool | str
    remote_id: str | None
    delivered_at: datetime


class RunDocument(Document):
    """One run of a stream."""

    id: int
    stream: str
    phase: str
    started_at: datetime
    ended_at: datetime
    outcome: Literal["completed", "failed"]
    samples: int
    delivered: int
    modified: int
    unchanged: int
    rejected: int
    retried: int
    error: str | None


class DeadLetterDocument(Document):
    """A reading that the system refused for good, with its reason."""

    id: int
    meter: str | None
    window_start: datetime | None
    reason: str
    detail: str
    occurrences: int
    first_at: datetime
    last_at: datetime
    value: bool | int | float | str | None = Field(None, description="Null: none could be computed.")
    unit: str | None = None


class ReplayRequest(Section):
    """Which dead letters; null: all of the connection."""

    ids: tuple[int, ...] | None = Field(
        None,
        max_length=1000,
        json_schema_extra={"items": {"type": "integer", "minimum": 1, "maximum": 2**53}},
    )


class Replayed(Document):
    """How many go out again."""

    replayed: int


class CreditsDocument(Document):
    """The pool; for a token that is bound to a customer, that customer's part of it."""

    capacity: int | None = Field(description="Null: not shown to a bound token, or none is set.")
    held: int
    posted: int
    available: int | None
    quota: int | None = Field(None, description="The customer's own limit, where it has one.")
    by_customer: dict[str, int] = Field(description="Held and posted together.")


class TransferDocument(Document):
    """A line of the ledger."""

    id: int
    at: datetime
    connection: str
    customer: str
    kind: Literal["hold", "post", "return", "lapse"]
    from_account: Literal["available", "held", "posted"]
    to_account: Literal["available", "held", "posted"]
    amount: int


class IncidentDocument(Document):
    """Failures that belong together. A bound token sees its own customer's connections only."""

    id: str
    scope: Literal["connection", "host", "system"]
    state: Literal["open", "recovering", "closed"]
    since: datetime
    opened_at: datetime
    closed_at: datetime | None
    systems: tuple[str, ...]
    operations: tuple[str, ...]
    connections: tuple[str, ...]
    request_ids: tuple[str, ...]
    detail: str


class PublicIncident(Document):
    """What anybody may know."""

    scope: str
    systems: tuple[str, ...]
    since: datetime
    closed_at: datetime | None
    state: str
