"""The configuration as a frozen tree; unknown keys are errors. Reading files, overrides and secrets is
`gateway.configuration`'s.
"""

from __future__ import annotations

import re
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    WithJsonSchema,
    field_validator,
)

from gateway.alert_settings import AlertSettings
from gateway.login_settings import OidcSettings
from gateway.meter_settings import MeterSettings
from gateway.model import bounds
from gateway.model.address import to_listen
from gateway.model.alert_rule import MAX_RULES
from gateway.model.connector import Auth, Hosting
from gateway.model.dsn import check_own_dsn
from gateway.quota_settings import QuotasSettings
from gateway.settings_base import (
    CustomerId,
    Duration,
    Identifier,
    PositiveDuration,
    Seconds,
    Section,
    at_least,
)
from gateway.source_settings import DEFAULT_SOURCES, SourceSettings
from gateway.tracing_settings import TracingSettings

Days = Annotated[Duration, at_least("1d")]


def parse_network(value: object) -> object:
    """`10.0.0.0/8` or one address; the fault names what is wrong with it."""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    try:
        return ip_network(str(value).strip())
    except ValueError as error:
        raise ValueError(f"expected a network such as 10.0.0.0/8 or fd00::/8: {error}") from error


Network = Annotated[
    IPv4Network | IPv6Network,
    BeforeValidator(parse_network),
    WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8", "192.168.7.20", "fd00::/8"]}),
]


MAX_URLS = 16
MAX_COMMITS = 8
"""Partitions whose batches are committed at once; more wait for each other's, which is soon."""


def _without_password(url: str) -> str:
    """What may be said of a URL that is none of ours: nothing before an `@`."""
    return url.rpartition("@")[2]


class BrokerSettings(Section):
    """The MQTT 5 broker: `mqtt://` or `mqtts://` host and port; of several, the first that answers."""

    url: str | tuple[str, ...] = "mqtt://127.0.0.1:1883"
    return_interval: Seconds | None = timedelta(minutes=1)
    username: str | None = None
    password: SecretStr | None = None
    ca_file: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    keepalive: Seconds = timedelta(seconds=30)
    session_expiry: Seconds = timedelta(days=7)
    receive_maximum: int = Field(65534, ge=1, le=65534)
    partitions: int = Field(1, ge=1, le=64)
    topic_root: str = "fieldgate/v1"
    connect_timeout: PositiveDuration = timedelta(seconds=10)
    allow_qos0: bool = False

    @field_validator("url", mode="before")
    @classmethod
    def _one_or_several(cls, given: object) -> object:
        """The environment and YAML may say a list of one; a fault names the URL that it is about."""
        urls = [given] if isinstance(given, str) else given
        if not isinstance(urls, list | tuple) or not all(isinstance(url, str) for url in urls):
            raise ValueError("expected mqtt://host:port, or a list of them that are tried in turn")
        if not 1 <= len(urls) <= MAX_URLS:
            raise ValueError(f"a list has 1 to {MAX_URLS} URLs")
        for url in urls:
            match = re.fullmatch(
                r"mqtts?://[^/@\s:\[\]]+(?::(\d{1,5}))?/?|mqtts?://\[[0-9a-fA-F:]+\](?::(\d{1,5}))?/?", url
            )
            if match is None or int(match[1] or match[2] or 1) not in range(1, 65536):
                which = "" if isinstance(given, str) else f", and not {_without_password(url)}"
                raise ValueError(
                    "expected mqtt://host:port or mqtts://host:port (user and password have keys of their"
                    f" own){which}"
                )
        if len(set(urls)) < len(urls):
            raise ValueError("a URL stands twice in the list")
        return given

    @property
    def urls(self) -> tuple[str, ...]:
        """All of them, in the order in which they are wanted."""
        return (self.url,) if isinstance(self.url, str) else self.url

    @property
    def commits_at_once(self) -> int:
        """Sessions that the partitions' batches are committed by."""
        return min(self.partitions, MAX_COMMITS)

    def at(self, url: str) -> BrokerSettings:
        """The same with this one alone."""
        return self.model_copy(update={"url": url})


class DatabaseSettings(Section):
    """PostgreSQL 15 or newer."""

    dsn: SecretStr = SecretStr("postgresql:///fieldgate")
    pool_size: int = Field(8, ge=3, le=100)

    @field_validator("dsn")
    @classmethod
    def _can_work(cls, dsn: SecretStr) -> SecretStr:
        check_own_dsn(dsn.get_secret_value())
        return dsn


class HttpSettings(Section):
    """Health, metrics, the API and the pages."""

    listen: str = "127.0.0.1:8080"
    public_url: str = "http://127.0.0.1:8080"
    authentication: bool = True
    metrics: Literal["auto", "open", "token"] = "auto"
    metrics_listen: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    trusted_proxies: tuple[Network, ...] = ()
    max_connections: int = Field(500, ge=10, le=50_000)
    max_connections_per_address: int = Field(200, ge=5, le=50_000)

    @field_validator("listen", "metrics_listen")
    @classmethod
    def _address(cls, listen: str | None) -> str | None:
        if listen is not None:
            to_listen(listen)
        return listen


class SparkplugSettings(Section):
    """The gateway as a host application of Sparkplug B. `host_id`: under which it tells that it lives."""

    host_id: Annotated[str, Field(pattern=r"^[^+#/\x00-\x1f]{1,128}$")] | None = None
    reorder_timeout: PositiveDuration = timedelta(seconds=5)
    rebirth_interval: PositiveDuration = timedelta(seconds=30)


class TelemetrySettings(Section):
    """What is taken in, and how long it is kept."""

    retention: Days = timedelta(days=100)
    buffer: Days | None = None
    max_future: Duration = timedelta(minutes=5)
    auto_register_customers: bool = False
    sources: tuple[SourceSettings, ...] = DEFAULT_SOURCES
    sparkplug: SparkplugSettings = SparkplugSettings()
    qos0_queue: int = Field(10_000, ge=0)
    batch_messages: int = Field(4_000, ge=1, le=50_000)
    memory_high_bytes: int = Field(8 << 20, ge=1 << 20)
    memory_low_bytes: int = Field(2 << 20, ge=1 << 18)
    silent_after: Seconds = timedelta(minutes=15)
    vanished_after: Annotated[Duration, at_least("1h")] = timedelta(days=7)
    dead_letter_bytes: int = Field(256 << 20, ge=1 << 20)
    dead_letter_retention: Duration = timedelta(days=100)


def _parse_tier(value: object) -> object:
    """Keys of a YAML mapping and of an environment variable are text."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


Tier = Annotated[Literal[1, 2, 3], BeforeValidator(_parse_tier)]


CreditAmount = Annotated[int, Field(ge=0, le=1_000_000)]


class CreditsSettings(Section):
    """What connections cost, how many credits there are, and how many of them one customer may use."""

    capacity: int = Field(100, ge=0, le=1_000_000_000)
    tier_price: dict[Tier, CreditAmount] = Field({1: 1, 2: 2, 3: 4})
    on_premises_multiplier: int = Field(2, ge=1, le=1_000)
    customer_quota: dict[CustomerId, CreditAmount] = Field({})

    @field_validator("tier_price")
    @classmethod
    def _every_tier(cls, prices: dict[Tier, int]) -> dict[Tier, int]:
        return {**cls.model_fields["tier_price"].default, **prices}


class SecuritySettings(Section):
    """Keys, newest first: they guard what is stored of credentials."""

    encryption_keys: tuple[SecretStr, ...] = Field(min_length=1)


class SyncSettings(Section):
    """How streams are worked."""

    workers: int = Field(8, ge=1, le=256)
    push_timeout: PositiveDuration = timedelta(seconds=30)
    max_attempts: int = Field(12, ge=1)
    lateness: Duration = timedelta(minutes=2)
    lease: Seconds = timedelta(seconds=15)
    backoff_base: PositiveDuration = timedelta(seconds=1)
    backoff_cap: PositiveDuration = timedelta(minutes=5)
    max_wait: PositiveDuration = timedelta(hours=6)
    unknown_wait: Duration = timedelta(seconds=10)
    probe_interval: PositiveDuration = timedelta(seconds=50)


class RecordsSettings(Section):
    """What is kept of the records that connected systems hold."""

    per_connection: int = Field(1_000_000, ge=1, le=100_000_000)
    deleted_retention: Days = timedelta(days=90)


class WebhookSettings(Section):
    """What endpoints of webhooks may be. `timeout` is for a whole attempt."""

    allow_private_addresses: bool = False
    allow_http: bool = False
    timeout: PositiveDuration = timedelta(seconds=15)


LOGO_ENDINGS = (".gif", ".jpg", ".png", ".svg", ".webp")


class IntegratorSettings(Section):
    """Who asks on the pages that customers see: links to connect or reconnect a system."""

    name: str | None = Field(None, min_length=1, max_length=120)
    contact: str | None = Field(None, min_length=1, max_length=200)
    logo_file: str | None = None


class EgressSettings(Section):
    """Networks beside the public internet that customers' connections may lead to: every customer's, and one
    customer's.
    """

    allow: tuple[Network, ...] = ()
    customers: dict[CustomerId, tuple[Network, ...]] = Field({})


class MetricsSettings(Section):
    """Of how many connections and customers there are series of their own."""

    connections: int = Field(1_000, ge=0, le=100_000)
    customers: int = Field(0, ge=0, le=100_000)
    one_hot: bool = False


class LoggingSettings(Section):
    """structlog."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class CredentialSettings(Section):
    """How the system is logged in to. The other keys depend on the type; every one is a secret."""

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)
    __pydantic_extra__: dict[str, SecretStr]
    type: Auth = "none"

    expires_at: str | None = Field(
        None,
        description=(
            "When it ends, where the system does not say: ISO 8601 with zone. Announced 7 days and 1 day"
            " ahead."
        ),
    )

    @field_validator("expires_at")
    @classmethod
    def _is_a_time(cls, written: str | None) -> str | None:
        if written is not None and bounds.parsed_instant(written) is None:
            raise ValueError("expected a time with its zone, such as 2027-03-01T00:00:00Z")
        return written

    def resolved(self) -> dict[str, str]:
        """In clear, for the connector only."""
        return {key: value.get_secret_value() for key, value in (self.__pydantic_extra__ or {}).items()}


class ConnectionSyncSettings(Section):
    """Schedule of one connection."""

    interval: PositiveDuration = timedelta(seconds=60)
    initial_days: int = Field(30, ge=0, le=90)
    lateness: Duration | None = None
    pull: tuple[str, ...] | None = Field(
        None,
        max_length=100,
        description="Streams of records to read; null: those that the system's manifest marks.",
    )
    pull_interval: Seconds = timedelta(minutes=5)
    reconcile: Annotated[Duration, at_least("1m")] = timedelta(days=1)
    publish_records: Literal["changes", "retained", "off"] = "changes"


Title = Annotated[str, Field(max_length=120, pattern=r"^[^\x00-\x1f\x7f]*$")]


class ConnectionSettings(Section):
    """A declared connection."""

    id: Identifier
    title: Title | None = Field(None, description="Its name on pages, where the id says too little.")
    customer: Identifier
    system: str
    hosting: Hosting = "cloud"
    settings: dict[str, object] = Field({})
    credentials: CredentialSettings = CredentialSettings()
    sync: ConnectionSyncSettings = ConnectionSyncSettings()
    meters: tuple[MeterSettings, ...] = ()
    alerts: tuple[AlertSettings, ...] = Field((), max_length=MAX_RULES)


class ConnectionPatch(Section):
    """A change of a connection: each part that is given replaces the old one whole. Customer and system never
    change.
    """

    title: Title | None = Field(None, description="An empty one removes it.")
    hosting: Hosting | None = None
    settings: dict[str, object] | None = None
    credentials: CredentialSettings | None = None
    sync: ConnectionSyncSettings | None = None
    meters: tuple[MeterSettings, ...] | None = None
    alerts: tuple[AlertSettings, ...] | None = Field(None, max_length=MAX_RULES)


class Settings(Section):
    """`config/fieldgate.yaml`."""

    instance: Identifier = "fieldgate"
    replica: Identifier | None = None
    broker: BrokerSettings = BrokerSettings()
    database: DatabaseSettings = DatabaseSettings()
    http: HttpSettings = HttpSettings()
    oidc: OidcSettings = OidcSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    customers: tuple[Identifier, ...] = ()
    quotas: QuotasSettings = QuotasSettings()
    connections_file: str | None = None
    credits: CreditsSettings = CreditsSettings()
    security: SecuritySettings
    sync: SyncSettings = SyncSettings()
    records: RecordsSettings = RecordsSettings()
    webhooks: WebhookSettings = WebhookSettings()
    egress: EgressSettings = EgressSettings()
    integrator: IntegratorSettings = IntegratorSettings()
    metrics: MetricsSettings = MetricsSettings()
    logging: LoggingSettings = LoggingSettings()
    tracing: TracingSettings = TracingSettings()
