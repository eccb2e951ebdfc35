"""The bodies of `/v1`, as Pydantic models: the OpenAPI document is generated from them. Status documents are
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
from gateway.model.diagnosis import Report
from gateway.model.event import EventType
from gateway.model.explanation import Explanation
from gateway.model.verification import Verdict
from gateway.settings import ConnectionSettings, CredentialSettings, Title
from gateway.settings_base import Identifier, Section

ItemT = TypeVar("ItemT")
NO_NUL = r"^[^\x00]*$"


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


class ConnectionDocument(Document):
    """A connection as it was asked for, and where it is. Credentials are never shown."""

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
    meters: tuple[dict[str, object], ...]
    alerts: tuple[dict[str, object], ...] = ()
    credential_type: str
    account: str | None
    created_at: datetime
    request_id: str | None
    issues: tuple[IssueDocument, ...]

    @field_validator("meters", mode="before")
    @classmethod
    def _as_given(cls, stored: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
        """As a `PATCH` takes them: what is reckoned stands beside the rest, and a duration is `15m`,
        not a number whose unit nobody knows.
        """
        return [meter_as_given(meter) for meter in stored]


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


class NewWebhook(Section):
    """An endpoint to be told. `customer` null: of every customer (unbound tokens only)."""

    url: str = Field(
        min_length=1,
        max_length=2000,
        pattern=r"^https?://\S+$",
        examples=["https://hooks.example.com/fieldgate"],
    )
    events: tuple[EventType, ...] = Field((), description="Empty: every type.")
    customer: Identifier | None = None


class NewSecret(Document):
    """What the next requests are signed with."""

    secret: str = Field(examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])


class WebhookDocument(Document):
    """An endpoint. Its secret is shown once, when it is made."""

    id: str
    url: str
    events: tuple[str, ...]
    customer: str | None
    created_at: datetime
    pending: int = Field(0, description="Events that wait for it.")
    failing_since: datetime | None = None
    last_error: str | None = None
    disabled_at: datetime | None
    disabled_reason: str | None


class WebhookCreated(WebhookDocument):
    """With the secret that signatures are made with: keep it, it is not shown again."""

    secret: str = Field(examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])


class DeviceDocument(Document):
    """A device that was seen. Times are null until something is written of it, some seconds after its first
    sample.
    """

    customer: str
    device: str
    title: str | None = Field(description="The name that its topic or payload gives it; null: its id.")
    source: str | None = Field(description="The topic template that it came by.")
    first_seen_at: datetime
    last_seen_at: datetime | None = Field(description="When its last message was received.")
    last_sample_at: datetime | None = Field(description="The latest time that its samples carry.")
    metrics: int = Field(description="How many are known.")
    interval_seconds: float | None = Field(
        description="What is usual between two messages; null: not known yet."
    )
    silent_since: datetime | None = Field(
        description="Its last message, where it is silent; null: it is not."
    )
    offline_since: datetime | None = Field(
        description=(
            "When its edge node said that it is dead, or died itself; null for what nobody says so of."
        )
    )


class FedMeterDocument(Document):
    """A meter that a metric feeds."""

    connection: str
    meter: str
    reduce: str
    unit: str | None


class DeviceMetricDocument(Document):
    """A metric with its last value. `kind`, `value` and `at` null: a meter names it, and it was not seen."""

    name: str
    kind: Literal["number", "boolean", "text"] | None
    value: float | int | bool | str | None = Field(description="Of a text the first 256 characters.")
    at: datetime | None
    meters: tuple[FedMeterDocument, ...]


class DeviceDetail(Document):
    """A device with all that is known of it."""

    device: DeviceDocument
    metrics: tuple[DeviceMetricDocument, ...]
    unmapped: tuple[str, ...] = Field(description="Metrics that come and feed no meter.")


class BucketDocument(Document):
    """Samples of one part of the time. True counts as 1 and false as 0; texts have no min, mean and max."""

    start: datetime
    samples: int
    min: float | None
    mean: float | None
    max: float | None
    last: float | int | bool | str


class SeriesDocument(Document):
    """A metric over time. Parts without samples are left out."""

    buckets: tuple[BucketDocument, ...]
    bucket_seconds: float
    complete: bool = Field(description="False: there were more samples than are read; the newest are here.")


class FindingDocument(Document):
    """One thing that is not as it should be."""

    severity: Literal["problem", "warning"] = Field(
        description="problem: something does not work, or can be lost, now; warning: it will come to that."
    )
    what: str
    where: str
    advice: str = Field(description="What to do.")


class CheckDocument(Document):
    """A check that was made."""

    check: str
    findings: tuple[FindingDocument, ...]
    unseen: tuple[str, ...] = Field(description="What could not be looked at from here, and why.")
    made: bool = Field(description="False: nothing of it could be looked at.")


class DoctorDocument(Document):
    """Everything that was looked at."""

    healthy: bool = Field(description="Nothing was found.")
    at: datetime
    seconds: float = Field(description="How long the look took.")
    checks: tuple[CheckDocument, ...]

    @classmethod
    def of(cls, report: Report) -> DoctorDocument:
        """The report as it is told."""
        return cls(
            healthy=report.is_healthy,
            at=report.at,
            seconds=round(report.seconds, 3),
            checks=tuple(
                CheckDocument(
                    check=each.check,
                    findings=tuple(FindingDocument.model_validate(found) for found in each.looked.findings),
                    unseen=each.looked.unseen,
                    made=each.looked.made,
                )
                for each in report.checks
            ),
        )


class MessageDocument(Document):
    """A message of which nothing could be taken, with the reason. Equal ones are one, counted."""

    id: int
    customer: str | None = Field(description="Null: its topic is nobody's that is known.")
    source: str | None = Field(description="The topic template that takes it; null: none does.")
    topic: str
    reason: str
    detail: str
    occurrences: int
    first_at: datetime
    last_at: datetime
    size_bytes: int
    preview: str = Field(description="The first 512 bytes: as text with escapes, or in hexadecimal.")
    is_binary: bool = Field(description="The preview is hexadecimal.")


class MessageGroupDocument(Document):
    """Messages of one source and reason."""

    source: str | None
    reason: str
    messages: int
    occurrences: int
    last_at: datetime


class MessageSummary(Document):
    """How many there are."""

    items: tuple[MessageGroupDocument, ...]
    newest: int = Field(description="The greatest id that was counted: `up_to` of a replay or discard.")
    complete: bool = Field(description="False: there are more, and the newest 100,000 were counted.")


class MessageDetail(Document):
    """One message with its payload, and what would become of it now."""

    message: MessageDocument
    payload_base64: str
    is_whole: bool = Field(description="False: only the first bytes of the message were kept.")
    advice: str
    explanation: Explanation | None = Field(description="Null where only a part of it was kept.")


class MessageFilter(Section):
    """Which messages; what is left out narrows nothing. `source` "": of no source."""

    customer: Identifier | None = None
    source: str | None = Field(None, max_length=1024, pattern=NO_NUL)
    reason: str | None = Field(None, max_length=64, pattern=r"^[a-z0-9_]+$")
    topic: str | None = Field(None, min_length=1, max_length=1024, pattern=NO_NUL, description="Part of it.")
    up_to: int | None = Field(None, ge=1, le=2**53, description="None that came after this id.")


class MessagesReplay(MessageFilter):
    """Up to 500 are tried again, the oldest first; `next` of the answer goes on."""

    cursor: str | None = Field(None, max_length=512)


class MessagesDiscard(MessageFilter):
    """`expected`: how many they are, as a confirmation."""

    expected: int = Field(ge=0, le=2**53)


class FailedMessage(Document):
    """It stays, for this reason."""

    id: int
    reason: str
    detail: str


class MessagesReplayed(Document):
    """What became of them. What was taken is a dead letter no more; nothing that was taken before is taken
    twice.
    """

    replayed: int
    samples: int
    failed_count: int
    failed: tuple[FailedMessage, ...] = Field(description="The first 100.")
    next: str | None = Field(description="The `cursor` of the next request; null: none is left.")


class Discarded(Document):
    """They are gone for good."""

    discarded: int


class QuotaDocument(Document):
    """What a customer may send a second, averaged over a minute, and have. Null: no limit."""

    messages_per_second: float
    bytes_per_second: float
    devices: int
    metrics_per_device: int
    stored_bytes: int | None


class OverQuotaDocument(Document):
    """A time in which more came than a quota allows."""

    customer: str | None = Field(description="Null: messages that are nobody's.")
    quota: Literal["messages_per_second", "bytes_per_second", "devices", "metrics_per_device", "stored_bytes"]
    allowed: float
    device: str | None = Field(description="One of those that it is about, for `metrics_per_device`.")
    since: datetime
    last_at: datetime
    dead_letters: int = Field(description="Messages that were kept as dead letters since then.")
    dropped: int = Field(description="Messages for which there was no room among those.")
    dropped_bytes: int
    slowed_seconds: float = Field(
        description="How long reading stood, where the partition is the customer's own."
    )


class CustomerQuotas(Document):
    """A customer's quotas, what it has of them, and which it is over now."""

    customer: str
    quota: QuotaDocument
    devices: int
    stored_bytes: int = Field(description="About: counted as samples are written.")
    over: tuple[OverQuotaDocument, ...]
