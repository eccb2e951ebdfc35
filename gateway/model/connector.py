"""The contract between the engine and a connected system. Connectors import this and `connectors.kit`,
nothing else of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol

from gateway.model.address import ANYWHERE, Reach
from gateway.model.credential import LogonGate, TokenSource
from gateway.model.inbound import InboundStream
from gateway.model.outcome import Outcome
from gateway.model.reading import Batch, Reading
from gateway.model.sample import Value

Push = Literal["bulk_partial", "bulk_atomic", "bulk_opaque", "single"]
Order = Literal["any", "per_meter_ascending"]
Dedup = Literal["upsert", "natural_key", "client_ref", "none"]
ReadBack = Literal["full", "last_only", "none"]
Auth = Literal[
    "none",
    "dsn",
    "api_key",
    "basic",
    "oauth2_client_credentials",
    "oauth2_authorization_code",
    "client_certificate",
    "hmac",
]
Hosting = Literal["cloud", "on_premises"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a system can do; declared in the connector's manifest, narrowed by settings.

    push: `bulk_partial` answers per reading, `bulk_atomic` all or none, `bulk_opaque` refuses all without
    naming the culprit. dedup: how a second send is recognised. `upsert` and `natural_key`: sending again is
    harmless. `client_ref`: our key can be looked up with `find`. `none`: neither. resolution: reading times
    are truncated to it before they become keys. max_backfill: older readings are never sent. keeps_latest:
    the system never replaces a reading by one of an earlier position.
    """

    push: Push
    max_items: int = 100
    max_bytes: int | None = None
    order: Order = "any"
    resolution: timedelta = timedelta(microseconds=1)
    max_backfill: timedelta | None = None
    future_skew: timedelta = timedelta(0)
    dedup: Dedup = "none"
    readback: ReadBack = "none"
    can_create_meter: bool = False
    can_raise_event: bool = False
    keeps_latest: bool = False
    values: frozenset[Literal["number", "boolean", "text"]] = frozenset({"number"})
    auth: tuple[Auth, ...] = ("none",)

    @property
    def delivery(self) -> Literal["exactly_once", "at_least_once"]:
        """Exactly once where a repeat is harmless or can be looked up in full; the status document says
        which.
        """
        if self.dedup in ("upsert", "natural_key") or (
            self.dedup == "client_ref" and self.readback == "full"
        ):
            return "exactly_once"
        return "at_least_once"

    @property
    def resend_is_harmless(self) -> bool:
        """Sending a reading twice leaves one: what is in doubt is sent again without asking."""
        return self.dedup in ("upsert", "natural_key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """`manifest.toml` of a connector: what the catalogue, the status document and the docs say of the system.

    streams: the records that can be read back; settings may narrow them, or name others where the system is
    generic. raises: what an alert can become, each with the stream in which its life is seen, or None.
    """

    system: str
    title: str
    tier: Literal[1, 2, 3]
    hosting: tuple[Hosting, ...]
    capabilities: Capabilities
    streams: tuple[InboundStream, ...] = ()
    raises: Mapping[str, str | None] = field(default_factory=dict)
    reauthorization: str
    """Instructions for the customer's administrator, written for this system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """Answer of a probe that succeeded. `account` identifies whose data the credential reaches, where the
    system says so; `former_account` is how an earlier version of the connector called the same.
    """

    account: str | None = None
    former_account: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteReading:
    """What the system holds for a key."""

    value: Value
    at: datetime
    remote_id: str | None = None


class Observer(Protocol):
    """Told of each call to a system, so that the engine can count them and connectors need no metrics of
    their own.
    """

    def __call__(self, operation: str, status_class: str) -> None:
        """`operation` is one of the connector's few; `status_class` is `2xx` ... `5xx`, `ok`, `refused`, or
        `none` where no answer came.
        """
        ...


def unobserved(operation: str, status_class: str) -> None:
    """The observer of a connector that nobody counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorSettings:
    """What a connector is built from: its own settings block and its resolved credentials (secrets in clear,
    never logged).

    settings_reach, credentials_reach: which addresses what the settings, or the credentials, name may lead
    to. token: where the credential is a token that the engine refreshes. gate: where it is a technical user's
    password.
    """

    connection: str
    hosting: Hosting
    settings: Mapping[str, object]
    credentials: Mapping[str, str] = field(repr=False)
    timeout_seconds: float
    observe: Observer = unobserved
    token: TokenSource | None = None
    gate: LogonGate | None = None
    settings_reach: Reach = ANYWHERE
    credentials_reach: Reach = ANYWHERE


class Connector(Protocol):
    """One customer's link to one system. Raises `ConnectorError` subclasses only; safe to call from several
    tasks.
    """

    @property
    def capabilities(self) -> Capabilities:
        """The manifest's, narrowed by the settings."""
        ...

    async def probe(self) -> ProbeResult:
        """Reachable and authorised? One cheap request, no side effect at the system."""
        ...

    async def push(self, batch: Batch) -> Sequence[Outcome]:
        """One outcome per reading, in the batch's order. Never more than `max_items` are given.

        Raises BatchRefused when a `bulk_opaque` system refuses the whole, OutcomeUnknown when the request was
        sent and no answer came.
        """
        ...

    async def find(self, readings: Sequence[Reading]) -> Mapping[str, RemoteReading]:
        """What the system already holds of these, by key. Only called where `readback` is not `none`."""
        ...

    async def close(self) -> None:
        """Releases connections. Idempotent."""
        ...
