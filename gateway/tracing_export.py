"""Spans kept by OpenTelemetry's SDK and sent by OTLP over HTTP, from a thread. Loaded only where that is
configured.

A collector that is away costs nothing but the spans: at most MAX_SPANS wait for it, and it is said once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import requests
import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes as SpanAttributes

from gateway.tracing_settings import TracingSettings

log = structlog.get_logger(__name__)

MAX_SPANS = 2048
MAX_BATCH = 512
EXPORT_SECONDS = 10
STOP_SECONDS = 2.0
_OF_HTTP = {"method": "http.request.method", "route": "http.route", "status": "http.response.status_code"}
_SERVERS = ("http.request", "ingest.batch")
_CLIENTS = ("inbound.page", "sync.push", "webhook.attempt")


class Exporting:
    """The spans of this process."""

    def __init__(self, settings: TracingSettings, *, instance: str, replica: str, process: str) -> None:
        assert settings.endpoint is not None
        # what the library says of each attempt: that it is away is said by ourselves, once
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        exporter = OTLPSpanExporter(
            endpoint=f"{settings.endpoint}/v1/traces",
            headers={name: value.get_secret_value() for name, value in settings.headers.items()},
            timeout=EXPORT_SECONDS,
            session=_Session(),
        )
        self._provider = TracerProvider(
            sampler=_sampler(settings),
            resource=Resource.create(
                {
                    "service.name": "fieldgate",
                    "service.namespace": instance,
                    "service.instance.id": f"{replica}/{process}",
                    "service.version": version("fieldgate"),
                }
            ),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                _Watched(exporter, settings.endpoint),
                max_queue_size=MAX_SPANS,
                max_export_batch_size=MAX_BATCH,
            )
        )
        self._tracer = self._provider.get_tracer("fieldgate")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(self, name: str, parent: str | None, attributes: Mapping[str, object]) -> Iterator[None]:
        """The block as a span."""
        context = None if parent is None else self._propagator.extract({"traceparent": parent})
        kind = SpanKind.INTERNAL
        if name in _SERVERS:
            kind = SpanKind.SERVER
        elif name in _CLIENTS:
            kind = SpanKind.CLIENT
        with self._tracer.start_as_current_span(
            name,
            context=context,
            kind=kind,
            attributes=_named(attributes),
            record_exception=False,  # its text may hold what a system said
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except asyncio.CancelledError:
                span.set_attribute("fieldgate.outcome", "cancelled")
                raise
            except Exception as error:
                span.set_status(Status(StatusCode.ERROR))
                span.set_attribute("error.type", type(error).__name__)
                raise

    def add(self, attributes: Mapping[str, object]) -> None:
        """To the span that is open."""
        span = trace.get_current_span()
        span.set_attributes(_named(attributes) or {})
        if isinstance(route := attributes.get("route"), str) and isinstance(span, ReadableSpan):
            span.update_name(f"{(span.attributes or {}).get('http.request.method', '')} {route}".strip())
        if isinstance(status := attributes.get("status"), int) and status >= 500:
            span.set_status(Status(StatusCode.ERROR))

    def traceparent(self) -> Mapping[str, str]:
        """Of the span that is open, where it is kept."""
        carrier: dict[str, str] = {}
        if trace.get_current_span().get_span_context().trace_flags.sampled:
            self._propagator.inject(carrier)
        return {"traceparent": carrier["traceparent"]} if "traceparent" in carrier else {}

    def ids(self) -> Mapping[str, str]:
        """For a log line."""
        context = trace.get_current_span().get_span_context()
        if not context.trace_flags.sampled:
            return {}
        return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}

    def stop(self) -> None:
        """Sends what is left, for STOP_SECONDS at most: the library would go on for as long as its own
        time-outs let it, and whoever stops the gateway must not wait for a collector.
        """
        last = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(STOP_SECONDS)


class _Session(requests.Session):
    """Of a collector's answer only the head counts: its body may be of any size. A redirect is no success,
    though the library takes it for one; it is not followed either, for the key is this collector's.
    """

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        answer = super().request(*arguments, **{**options, "stream": True})
        answer.close()
        if 300 <= answer.status_code < 400:
            raise requests.TooManyRedirects(f"the collector answers {answer.status_code}", response=answer)
        return answer


class _Watched(SpanExporter):
    """Says once that the collector takes nothing, and once that it does again."""

    def __init__(self, exporter: SpanExporter, endpoint: str) -> None:
        self._exporter, self._endpoint, self._is_away = exporter, endpoint, False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        was_away, self._is_away = self._is_away, result is not SpanExportResult.SUCCESS
        if self._is_away and not was_away:
            log.warning(
                "tracing.export_failed",
                endpoint=self._endpoint,
                advice="spans are dropped until the collector takes them; nothing else waits for it",
            )
        elif was_away and not self._is_away:
            log.info("tracing.export_resumed", endpoint=self._endpoint)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class _BySpan(Sampler):
    """Of the first span of a trace: batches of telemetry are far more than all else."""

    def __init__(self, settings: TracingSettings) -> None:
        self._ingest = TraceIdRatioBased(settings.ingest_sample)
        self._others = TraceIdRatioBased(settings.sample)

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: SpanAttributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        chosen = self._ingest if name == "ingest.batch" else self._others
        return chosen.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return "fieldgate"


def _sampler(settings: TracingSettings) -> Sampler:
    """Within a trace as its first span was decided. Whoever asks over HTTP may have its trace left out, and
    cannot have one kept that `sample` would not: anybody can send such a header.
    """
    first = _BySpan(settings)
    return ParentBased(
        root=first,
        remote_parent_sampled=first,
        remote_parent_not_sampled=ALWAYS_OFF,
        local_parent_sampled=ALWAYS_ON,
        local_parent_not_sampled=ALWAYS_OFF,
    )


def _named(attributes: Mapping[str, object]) -> SpanAttributes:
    return {
        _OF_HTTP.get(name, f"fieldgate.{name}"): value
        for name, value in attributes.items()
        if isinstance(value, str | int)
    }
