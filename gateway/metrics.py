"""Every metric, declared once. Labels are bounded: never a device, a topic, a meter or an error's text.

A metric of a room is touched by that room only; gauges that mirror the database are set by
`gateway.events.backlog`, and those of connections, in the other process, by `gateway.http.exposition`.
"""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gateway.bulk_histogram import BulkHistogram
from gateway.model.connection import State

REGISTRY = CollectorRegistry(auto_describe=True)
CONNECTIONS = CollectorRegistry(auto_describe=True)
"""What is said of connections, one by one and together: made in the process that answers HTTP, when it is
asked for.
"""

_counter = partial(Counter, registry=REGISTRY)
_gauge = partial(Gauge, registry=REGISTRY)
_histogram = partial(Histogram, registry=REGISTRY)
_connection_gauge = partial(Gauge, registry=CONNECTIONS)

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


MESSAGES = _counter(
    "fieldgate_mqtt_messages_total",
    "Samples taken from MQTT, dead-lettered messages and ignored ones; an array of n samples counts n.",
    ["outcome"],
)
FIELDS_SKIPPED = _counter(
    "fieldgate_fields_skipped_total",
    "Fields, and items of lists, that were left out of messages of which the rest was taken.",
    ["reason"],
)
SPARKPLUG_MESSAGES = _counter(
    "fieldgate_sparkplug_messages_total",
    "Messages of Sparkplug B, by type.",
    ["type"],
)
SPARKPLUG_GAPS = _counter(
    "fieldgate_sparkplug_gaps_total",
    "Times that something of an edge node could not be read: a number was missing, or a birth was.",
)
SPARKPLUG_REBIRTHS = _counter(
    "fieldgate_sparkplug_rebirths_total",
    "Edge nodes that were asked for their births.",
)
DEAD_LETTERS_DROPPED = _counter(
    "fieldgate_dead_letters_dropped_total",
    "Dead letters that were removed because their customer held more than telemetry.dead_letter_bytes.",
)
OVER_QUOTA = _gauge(
    "fieldgate_customers_over_quota",
    "Customers that send or hold more than a quota allows now, by quota.",
    ["quota"],
)
ACK_SECONDS = BulkHistogram(
    "fieldgate_mqtt_ack_seconds",
    "Receipt of a QoS 1 message to its PUBACK.",
    buckets=_SECONDS,
    registry=REGISTRY,
)
CONNECTED = _gauge(
    "fieldgate_mqtt_connected",
    "1 while the ingest partition's session is up.",
    ["partition"],
)
BROKER = _gauge(
    "fieldgate_mqtt_broker",
    "1 for the one of `broker.url` that the ingest partition's session is with.",
    ["partition", "broker"],
)
BROKER_CHANGES = _counter(
    "fieldgate_mqtt_broker_changes_total",
    "Ingest sessions that went to another one of `broker.url`.",
)
READING_PAUSED = _gauge(
    "fieldgate_mqtt_reading_paused",
    "1 while reading from the broker is paused by back-pressure.",
    ["partition"],
)
OVERSIZED = _counter(
    "fieldgate_mqtt_oversized_messages_total",
    "Messages larger than the parser takes: skipped, dead-lettered, acknowledged.",
)
MALFORMED = _counter(
    "fieldgate_mqtt_malformed_packets_total",
    "Packets from the broker that could not be parsed; each ends the connection.",
)
RECONNECTS = _counter(
    "fieldgate_mqtt_reconnects_total",
    "Ingest sessions that ended and were tried again.",
)
INFLIGHT = _gauge("fieldgate_mqtt_inflight_messages", "Received and not yet acknowledged.")
BROKER_DROPPED = _gauge(
    "fieldgate_mqtt_broker_dropped_messages",
    "The broker's own count of messages it dropped ($SYS).",
)
COMMANDS = _counter(
    "fieldgate_mqtt_commands_total",
    "Commands of customers over MQTT, by their outcome.",
    ["verb", "outcome"],
)
RECORDS = _counter(
    "fieldgate_records_total",
    "Changes of records that connected systems hold.",
    ["system", "change"],
)
PULL_SECONDS = _histogram(
    "fieldgate_pull_seconds",
    "One request for records to a system.",
    ["system"],
    buckets=_SECONDS,
)
RECORDS_PUBLISHED = _counter(
    "fieldgate_records_published_total",
    "Records told over MQTT.",
    ["outcome"],
)
INBOUND_LAG = _gauge(
    "fieldgate_inbound_lag_seconds",
    "Age of the last interval of records that was read whole, by system, of the stream that is furthest"
    " behind.",
    ["system"],
)
COMMIT_SECONDS = _histogram(
    "fieldgate_ingest_commit_seconds",
    "One group commit.",
    buckets=_SECONDS,
)
BATCH_SAMPLES = _histogram(
    "fieldgate_ingest_batch_samples",
    "Samples in one group commit.",
    buckets=(1, 10, 50, 100, 500, 1000, 2000, 5000, 10000),
)
TELEMETRY_ROWS = _counter(
    "fieldgate_telemetry_rows_total",
    "Rows inserted or changed in telemetry.",
)
DEVICES_SILENT = _gauge(
    "fieldgate_devices_silent",
    "Silent devices of a customer. For the hundred customers with the most; one that has none has no series.",
    ["customer"],
)
ALERTS_OPEN = _gauge("fieldgate_alerts_open", "Alerts that are not cleared.", ["severity"])
ALERTS_RAISED = _counter(
    "fieldgate_alerts_raised_total",
    "Alerts that a system has taken.",
    ["severity"],
)
SYNC_RUNS = _counter(
    "fieldgate_sync_runs_total",
    "Runs of streams.",
    ["system", "phase", "outcome"],
)
SYNC_READINGS = _counter(
    "fieldgate_sync_readings_total",
    "Readings by their outcome.",
    ["system", "outcome"],
)
PUSH_SECONDS = _histogram(
    "fieldgate_sync_push_seconds",
    "One push to a system.",
    ["system"],
    buckets=_SECONDS,
)
SYNC_LAG = _connection_gauge(
    "fieldgate_sync_lag_seconds",
    "Age of the oldest closed window that is not delivered.",
    ["connection"],
)
SYNC_PENDING = _connection_gauge(
    "fieldgate_sync_pending_readings",
    "Windows marked and not delivered.",
    ["connection"],
)
SYNC_LAST_SUCCESS = _connection_gauge(
    "fieldgate_sync_last_success_timestamp_seconds",
    "When a run last completed.",
    ["connection"],
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

CONNECTION_STATE_CODE = _connection_gauge(
    "fieldgate_connection_state_code",
    "The state that the connection is in:"
    f" {', '.join(f'{code} {state}' for state, code in STATE_CODES.items())}.",
    ["connection", "customer", "system"],
)
CONNECTION_STATE = _connection_gauge(
    "fieldgate_connection_state",
    "1 for the state that the connection is in. Only with metrics.one_hot.",
    ["connection", "customer", "system", "state"],
)
REAUTHORIZATION_REQUIRED = _connection_gauge(
    "fieldgate_connection_reauthorization_required",
    "1 while a person must give new credentials.",
    ["connection", "customer", "system"],
)
CONNECTIONS_HELD = _connection_gauge(
    "fieldgate_connections",
    "Connections that are not disconnected.",
    ["system", "state"],
)
CONNECTIONS_WITHOUT_SERIES = _connection_gauge(
    "fieldgate_connections_without_series",
    "Connections of which nothing is said one by one: there are more than metrics.connections and they are"
    " well, or more than that are not well.",
    ["health"],
)
SYSTEM_LAG = _connection_gauge(
    "fieldgate_system_lag_seconds",
    "The worst lag of a system's connections.",
    ["system"],
)
SYSTEM_PENDING = _connection_gauge(
    "fieldgate_system_pending_readings",
    "Windows of a system's connections that are marked and not delivered.",
    ["system"],
)
CUSTOMER_LAG = _connection_gauge(
    "fieldgate_customer_lag_seconds",
    "The worst lag of a customer's connections. For metrics.customers of them, the worst first.",
    ["customer"],
)
CUSTOMER_PENDING = _connection_gauge(
    "fieldgate_customer_pending_readings",
    "Windows of a customer's connections that are marked and not delivered. For the same customers.",
    ["customer"],
)
CUSTOMER_CONNECTIONS = _connection_gauge(
    "fieldgate_customer_connections",
    "A customer's connections that are not disconnected, by whether they are well. For the same customers.",
    ["customer", "health"],
)
INTERNAL_ERRORS = _counter(
    "fieldgate_internal_errors_total",
    "Faults of our own, or of a connector, that nobody foresaw; each ended one connection's piece of work and"
    " nothing else.",
    ["part"],
)
TOKEN_REFRESHES = _counter(
    "fieldgate_token_refreshes_total",
    "Refreshes of OAuth tokens by their outcome.",
    ["system", "outcome"],
)
UPSTREAM_REQUESTS = _counter(
    "fieldgate_upstream_requests_total",
    "Calls to systems.",
    ["system", "operation", "status_class"],
)
CREDITS_CAPACITY = _gauge(
    "fieldgate_credits_capacity",
    "Connection credits that there are.",
)
CREDITS_USED = _gauge(
    "fieldgate_credits_used",
    "Connection credits held or posted.",
    ["tier"],
)
CREDITS_DISAGREEMENTS = _gauge(
    "fieldgate_credits_disagreements",
    "Contradictions that the last self-check of the credits found.",
)
BREAKER_OPEN = _gauge(
    "fieldgate_breaker_open",
    "Open breakers: connections that fail, hosts and system types whose calls are held back.",
    ["scope"],
)
INCIDENTS_OPEN = _gauge("fieldgate_incidents_open", "Open incidents.", ["scope"])
DEAD_LETTERS = _gauge("fieldgate_dead_letters", "Dead letters held.", ["reason"])
OUTBOX_PENDING = _gauge(
    "fieldgate_outbox_pending_events",
    "Events that MQTT has not taken yet.",
)
WEBHOOK_DELIVERIES = _counter(
    "fieldgate_webhook_deliveries_total",
    "Attempts to deliver an event to a webhook.",
    ["outcome"],
)
HTTP_REFUSED = _counter(
    "fieldgate_http_refused_total",
    "What HTTP turned away: unknown tokens and links, addresses with too many failed attempts, unknown hosts,"
    " connections beyond the limits, slow clients, idle connections closed for new ones.",
    ["reason"],
)
BUILD_INFO = _gauge("fieldgate_build_info", "Always 1.", ["version", "python"])
