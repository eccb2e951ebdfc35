"""Every metric, declared once. Labels are bounded: never a device, a topic, a meter or an error's text.

A metric of a room is touched by that room only; gauges that mirror the database are set by
`gateway.events.backlog`, and those of connections, in the other process, by `gateway.http.exposition`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from gateway.model.connection import State

REGISTRY = CollectorRegistry(auto_describe=True)
CONNECTIONS = CollectorRegistry(auto_describe=True)
"""What is said of connections, one by one and together: made in the process that answers HTTP, when it is
asked for.
"""

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class BulkHistogram(Collector):
    """A histogram without labels that takes many equal observations at once: one call for a batch, not one
    for a message.
    """

    def __init__(
        self, name: str, documentation: str, *, buckets: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name, self._documentation = name, documentation
        self._bounds = tuple(buckets)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe(self, value: float, count: int = 1) -> None:
        """`count` observations of `value`."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._sum += value * count

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The family, with cumulative buckets."""
        total, buckets = 0, []
        for bound, count in zip((*map(str, map(float, self._bounds)), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        family = HistogramMetricFamily(self._name, self._documentation)
        family.add_metric([], buckets, self._sum)
        yield family


MESSAGES = Counter(
    "fieldgate_mqtt_messages_total",
    "Samples taken from MQTT, dead-lettered messages and ignored ones; an array of n samples counts n.",
    ["outcome"],
    registry=REGISTRY,
)
FIELDS_SKIPPED = Counter(
    "fieldgate_fields_skipped_total",
    "Fields, and items of lists, that were left out of messages of which the rest was taken.",
    ["reason"],
    registry=REGISTRY,
)
SPARKPLUG_MESSAGES = Counter(
    "fieldgate_sparkplug_messages_total",
    "Messages of Sparkplug B, by type.",
    ["type"],
    registry=REGISTRY,
)
SPARKPLUG_GAPS = Counter(
    "fieldgate_sparkplug_gaps_total",
    "Times that something of an edge node could not be read: a number was missing, or a birth was.",
    registry=REGISTRY,
)
SPARKPLUG_REBIRTHS = Counter(
    "fieldgate_sparkplug_rebirths_total",
    "Edge nodes that were asked for their births.",
    registry=REGISTRY,
)
DEAD_LETTERS_DROPPED = Counter(
    "fieldgate_dead_letters_dropped_total",
    "Dead letters that were let go because their customer held more than telemetry.dead_letter_bytes.",
    registry=REGISTRY,
)
OVER_QUOTA = Gauge(
    "fieldgate_customers_over_quota",
    "Customers that send or hold more than a quota allows now, by quota.",
    ["quota"],
    registry=REGISTRY,
)
ACK_SECONDS = BulkHistogram(
    "fieldgate_mqtt_ack_seconds",
    "Receipt of a QoS 1 message to its PUBACK.",
    buckets=_SECONDS,
    registry=REGISTRY,
)
CONNECTED = Gauge(
    "fieldgate_mqtt_connected",
    "1 while the ingest partition's session is up.",
    ["partition"],
    registry=REGISTRY,
)
BROKER = Gauge(
    "fieldgate_mqtt_broker",
    "1 for the one of `broker.url` that the ingest partition's session is with.",
    ["partition", "broker"],
    registry=REGISTRY,
)
BROKER_CHANGES = Counter(
    "fieldgate_mqtt_broker_changes_total",
    "Ingest sessions that went to another one of `broker.url`.",
    registry=REGISTRY,
)
READING_PAUSED = Gauge(
    "fieldgate_mqtt_reading_paused",
    "1 while reading from the broker is paused by back-pressure.",
    ["partition"],
    registry=REGISTRY,
)
OVERSIZED = Counter(
    "fieldgate_mqtt_oversized_messages_total",
    "Messages larger than the parser takes: skipped, dead-lettered, acknowledged.",
    registry=REGISTRY,
)
MALFORMED = Counter(
    "fieldgate_mqtt_malformed_packets_total",
    "Packets from the broker that could not be parsed; each ends the connection.",
    registry=REGISTRY,
)
RECONNECTS = Counter(
    "fieldgate_mqtt_reconnects_total", "Ingest sessions that ended and were tried again.", registry=REGISTRY
)
INFLIGHT = Gauge("fieldgate_mqtt_inflight_messages", "Received and not yet acknowledged.", registry=REGISTRY)
BROKER_DROPPED = Gauge(
    "fieldgate_mqtt_broker_dropped_messages",
    "The broker's own count of messages it dropped ($SYS).",
    registry=REGISTRY,
)
COMMANDS = Counter(
    "fieldgate_mqtt_commands_total",
    "Commands of customers over MQTT, by what became of them.",
    ["verb", "outcome"],
    registry=REGISTRY,
)
RECORDS = Counter(
    "fieldgate_records_total",
    "Changes of records that connected systems hold.",
    ["system", "change"],
    registry=REGISTRY,
)
PULL_SECONDS = Histogram(
    "fieldgate_pull_seconds",
    "One request for records to a system.",
    ["system"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
RECORDS_PUBLISHED = Counter(
    "fieldgate_records_published_total", "Records told over MQTT.", ["outcome"], registry=REGISTRY
)
INBOUND_LAG = Gauge(
    "fieldgate_inbound_lag_seconds",
    "Age of the last interval of records that was read whole, by system, of the stream that is furthest"
    " behind.",
    ["system"],
    registry=REGISTRY,
)
COMMIT_SECONDS = Histogram(
    "fieldgate_ingest_commit_seconds", "One group commit.", buckets=_SECONDS, registry=REGISTRY
)
BATCH_SAMPLES = Histogram(
    "fieldgate_ingest_batch_samples",
    "Samples in one group commit.",
    buckets=(1, 10, 50, 100, 500, 1000, 2000, 5000, 10000),
    registry=REGISTRY,
)
TELEMETRY_ROWS = Counter(
    "fieldgate_telemetry_rows_total", "Rows inserted or changed in telemetry.", registry=REGISTRY
)
DEVICES_SILENT = Gauge(
    "fieldgate_devices_silent",
    "Silent devices of a customer. For the hundred customers with the most; one that has none has no series.",
    ["customer"],
    registry=REGISTRY,
)
ALERTS_OPEN = Gauge("fieldgate_alerts_open", "Alerts that are not over.", ["severity"], registry=REGISTRY)
ALERTS_RAISED = Counter(
    "fieldgate_alerts_raised_total", "Alerts that a system has taken.", ["severity"], registry=REGISTRY
)
SYNC_RUNS = Counter(
    "fieldgate_sync_runs_total", "Runs of streams.", ["system", "phase", "outcome"], registry=REGISTRY
)
SYNC_READINGS = Counter(
    "fieldgate_sync_readings_total",
    "Readings by what became of them.",
    ["system", "outcome"],
    registry=REGISTRY,
)
PUSH_SECONDS = Histogram(
    "fieldgate_sync_push_seconds", "One push to a system.", ["system"], buckets=_SECONDS, registry=REGISTRY
)
SYNC_LAG = Gauge(
    "fieldgate_sync_lag_seconds",
    "Age of the oldest closed window that is not delivered.",
    ["connection"],
    registry=CONNECTIONS,
)
SYNC_PENDING = Gauge(
    "fieldgate_sync_pending_readings",
    "Windows marked and not delivered.",
    ["connection"],
    registry=CONNECTIONS,
)
SYNC_LAST_SUCCESS = Gauge(
    "fieldgate_sync_last_success_timestamp_seconds",
    "When a run last completed.",
    ["connection"],
    registry=CONNECTIONS,
)
STATE_CODES = {
    State.ACTIVE: 0,
    State.PAUSED: 1,
    State.PENDING: 2,
    State.VERIFYING: 3,
    State.DEGRADED: 4,
    State.BLOCKED: 5,
    State.REAUTHORIZATION_REQUIRED: 6,
    State.DISCONNECTING: 7,
}
"""Rules compare with them: a number never gets another meaning. A disconnected connection has no series."""

CONNECTION_STATE_CODE = Gauge(
    "fieldgate_connection_state_code",
    "The state that the connection is in:"
    f" {', '.join(f'{code} {state}' for state, code in STATE_CODES.items())}.",
    ["connection", "customer", "system"],
    registry=CONNECTIONS,
)
CONNECTION_STATE = Gauge(
    "fieldgate_connection_state",
    "1 for the state that the connection is in. Only with metrics.one_hot.",
    ["connection", "customer", "system", "state"],
    registry=CONNECTIONS,
)
REAUTHORIZATION_REQUIRED = Gauge(
    "fieldgate_connection_reauthorization_required",
    "1 while a person must give new credentials.",
    ["connection", "customer", "system"],
    registry=CONNECTIONS,
)
CONNECTIONS_HELD = Gauge(
    "fieldgate_connections",
    "Connections that are not disconnected.",
    ["system", "state"],
    registry=CONNECTIONS,
)
CONNECTIONS_WITHOUT_SERIES = Gauge(
    "fieldgate_connections_without_series",
    "Connections of which nothing is said one by one: there are more than metrics.connections and they are"
    " well, or more than that are not well.",
    ["health"],
    registry=CONNECTIONS,
)
SYSTEM_LAG = Gauge(
    "fieldgate_system_lag_seconds",
    "The worst lag of a system's connections.",
    ["system"],
    registry=CONNECTIONS,
)
SYSTEM_PENDING = Gauge(
    "fieldgate_system_pending_readings",
    "Windows of a system's connections that are marked and not delivered.",
    ["system"],
    registry=CONNECTIONS,
)
CUSTOMER_LAG = Gauge(
    "fieldgate_customer_lag_seconds",
    "The worst lag of a customer's connections. For metrics.customers of them, the worst first.",
    ["customer"],
    registry=CONNECTIONS,
)
CUSTOMER_PENDING = Gauge(
    "fieldgate_customer_pending_readings",
    "Windows of a customer's connections that are marked and not delivered. For the same customers.",
    ["customer"],
    registry=CONNECTIONS,
)
CUSTOMER_CONNECTIONS = Gauge(
    "fieldgate_customer_connections",
    "A customer's connections that are not disconnected, by whether they are well. For the same customers.",
    ["customer", "health"],
    registry=CONNECTIONS,
)
INTERNAL_ERRORS = Counter(
    "fieldgate_internal_errors_total",
    "Faults of our own, or of a connector, that nobody foresaw; each ended one connection's piece of work and"
    " nothing else.",
    ["part"],
    registry=REGISTRY,
)
TOKEN_REFRESHES = Counter(
    "fieldgate_token_refreshes_total",
    "Refreshes of OAuth tokens by what became of them.",
    ["system", "outcome"],
    registry=REGISTRY,
)
UPSTREAM_REQUESTS = Counter(
    "fieldgate_upstream_requests_total",
    "Calls to systems.",
    ["system", "operation", "status_class"],
    registry=REGISTRY,
)
CREDITS_CAPACITY = Gauge(
    "fieldgate_credits_capacity", "Connection credits that there are.", registry=REGISTRY
)
CREDITS_USED = Gauge(
    "fieldgate_credits_used", "Connection credits held or posted.", ["tier"], registry=REGISTRY
)
CREDITS_DISAGREEMENTS = Gauge(
    "fieldgate_credits_disagreements",
    "Contradictions that the last self-check of the credits found.",
    registry=REGISTRY,
)
BREAKER_OPEN = Gauge(
    "fieldgate_breaker_open",
    "Open breakers: connections that fail, hosts and system types whose calls are held back.",
    ["scope"],
    registry=REGISTRY,
)
INCIDENTS_OPEN = Gauge("fieldgate_incidents_open", "Open incidents.", ["scope"], registry=REGISTRY)
DEAD_LETTERS = Gauge("fieldgate_dead_letters", "Dead letters held.", ["reason"], registry=REGISTRY)
OUTBOX_PENDING = Gauge(
    "fieldgate_outbox_pending_events", "Events that MQTT has not taken yet.", registry=REGISTRY
)
WEBHOOK_DELIVERIES = Counter(
    "fieldgate_webhook_deliveries_total",
    "Attempts to deliver an event to a webhook.",
    ["outcome"],
    registry=REGISTRY,
)
HTTP_REFUSED = Counter(
    "fieldgate_http_refused_total",
    "What HTTP turned away: unknown tokens and links, addresses with too many failed attempts, unknown hosts,"
    " connections beyond the limits, slow clients, idle connections closed for new ones.",
    ["reason"],
    registry=REGISTRY,
)
BUILD_INFO = Gauge("fieldgate_build_info", "Always 1.", ["version", "python"], registry=REGISTRY)

BESIDE = (TOKEN_REFRESHES, UPSTREAM_REQUESTS, HTTP_REFUSED)
"""What the HTTP process counts as well: it too refreshes tokens and calls systems, and it alone refuses
clients.
"""

Counts = Sequence[tuple[int, Mapping[str, str], float]]


def counts() -> Counts:
    """How far each series of `BESIDE` has come in this process: place in it, labels, total."""
    families = [(place, family) for place, counter in enumerate(BESIDE) for family in counter.collect()]
    return [
        (place, sample.labels, sample.value)
        for place, family in families
        for sample in family.samples
        if sample.name.endswith("_total")
    ]


class Added:
    """What another process counted, added to this one's counters: one of these for each such process."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, tuple[str, ...]], float] = {}

    def add(self, counted: Counts) -> None:
        """What has grown since the last time."""
        for place, labels, total in counted:
            key = (place, tuple(labels.values()))
            BESIDE[place].labels(**labels).inc(total - self._known.get(key, 0.0))
            self._known[key] = total
