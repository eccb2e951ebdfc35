"""Decode: a topic and a payload to samples, or a DecodeError that says why not. The hot path: its caches and
plain tuples are measured.
"""

from __future__ import annotations

from collections.abc import Collection

from gateway.ingest.formats import FORMATS, Parse
from gateway.ingest.formats.values import MAX_PAYLOAD_BYTES, Reason
from gateway.model.errors import DecodeError
from gateway.model.sample import Metrics
from gateway.model.topics import IDENTIFIER, Route, Source, route
from gateway.settings import TelemetrySettings

Row = tuple[str, str, int, Metrics]
"""customer, device, device time in microseconds since the epoch, metrics."""

CACHED_TOPICS = 100_000


class Decoder:
    """Decodes messages of the configured sources for the known customers."""

    def __init__(
        self, telemetry: TelemetrySettings, sources: Collection[Source], customers: Collection[str]
    ) -> None:
        self._sources = tuple(sources)
        self._customers = None if telemetry.auto_register_customers else frozenset(customers)
        self._max_future = int(telemetry.max_future.total_seconds() * 1e6)
        self._retention = int(telemetry.retention.total_seconds() * 1e6)
        self._routes: dict[str, tuple[str, str, str | None, Parse]] = {}

    def decode(self, topic: str, payload: bytes, received_at: int, *, is_retained: bool = False) -> list[Row]:
        """The samples of one message. Raises DecodeError.

        `received_at` in microseconds stands for a missing time, one more for each further sample of the
        message. Of what the broker had retained nobody knows when it was measured: samples without a time of
        their own are left out, and there may be none.
        """
        known = self._routes.get(topic)
        customer, device, metric, parse = known if known is not None else self._learn(topic)
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise DecodeError(
                Reason.PAYLOAD_TOO_LARGE, f"{len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are taken"
            )
        rows: list[Row] = []
        for device_time, metrics in parse(payload, metric):
            if device_time is None and is_retained:
                continue
            at = received_at + len(rows) if device_time is None else device_time
            if at > received_at + self._max_future:
                raise DecodeError(
                    Reason.TIMESTAMP_IN_FUTURE,
                    f"ts is {(at - received_at) / 1e6:.0f} s ahead of the gateway; check the device's clock",
                )
            if at < received_at - self._retention:
                raise DecodeError(
                    Reason.TIMESTAMP_TOO_OLD,
                    f"ts is {(received_at - at) / 86_400e6:.1f} days old; telemetry.retention is shorter",
                )
            rows.append((customer, device, at, metrics))
        return rows

    def route(self, topic: str) -> Route:
        """Whose device the topic names. Raises DecodeError."""
        found = route(topic, self._sources)
        if found is None:
            raise DecodeError(Reason.UNMATCHED_TOPIC, "no source matches the topic; see telemetry.sources")
        for what, name in (("customer", found.customer), ("device", found.device)):
            if not IDENTIFIER.fullmatch(name):
                raise DecodeError(
                    Reason.INVALID_IDENTIFIER,
                    f"{what} {name[:70]!r}: letters, digits and . _ -, at most 64, the first a letter or digit",
                )
        if self._customers is not None and found.customer not in self._customers:
            raise DecodeError(
                Reason.UNKNOWN_CUSTOMER, f"customer {found.customer!r} is not listed in customers"
            )
        return found

    def customer_of(self, topic: str) -> str | None:
        """Whose topic it is, for what cannot be decoded; None where it is nobody's that is known."""
        try:
            return self._learn(topic)[0] if topic not in self._routes else self._routes[topic][0]
        except DecodeError:
            return None

    def _learn(self, topic: str) -> tuple[str, str, str | None, Parse]:
        found = self.route(topic)
        if len(self._routes) >= CACHED_TOPICS:
            self._routes.clear()
        entry = self._routes[topic] = (found.customer, found.device, found.metric, FORMATS[found.format])
        return entry
