"""Traces of what the gateway does, where `tracing.endpoint` is set; else nothing of OpenTelemetry's SDK is
loaded, and a span costs a call that returns.

What a span may say is closed: names, counts and outcomes. No payload, no value of a device, no text of a
system, no address of a request, no secret.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict, Unpack

from gateway.tracing_settings import TracingSettings

if TYPE_CHECKING:
    from gateway.tracing_export import Exporting

SpanName = Literal[
    "http.request",
    "inbound.page",
    "inbound.run",
    "inbound.store",
    "ingest.batch",
    "sync.push",
    "sync.record",
    "sync.run",
    "sync.scan",
    "webhook.attempt",
]


class Attributes(TypedDict, total=False):
    """Of a span: each becomes `fieldgate.<name>`, those of HTTP as OpenTelemetry calls them."""

    connection: str
    customer: str
    system: str
    stream: str
    phase: str
    outcome: str
    readings: int
    records: int
    messages: int
    samples: int
    endpoint: str
    method: str
    route: str
    status: int
    request_id: str


TRACEPARENT = "traceparent"
_OFF: AbstractContextManager[None] = nullcontext()


class _Process:
    """What keeps the spans of this process; None: nothing does."""

    exporting: Exporting | None = None


_OURS = _Process()


def setup(settings: TracingSettings, *, instance: str, replica: str, process: str) -> None:
    """From now on spans of this process are kept and sent; nothing where no endpoint is set. `process`: which
    of the gateway's it is.
    """
    if settings.endpoint is None or _OURS.exporting is not None:
        return
    from gateway.tracing_export import Exporting

    _OURS.exporting = Exporting(settings, instance=instance, replica=replica, process=process)


def is_on() -> bool:
    """Whether spans are kept."""
    return _OURS.exporting is not None


def span(
    name: SpanName, *, parent: str | None = None, **attributes: Unpack[Attributes]
) -> AbstractContextManager[None]:
    """The block as a span within the one that is open, or the first of a trace. `parent`: a W3C traceparent
    that whoever asks gave; one that cannot be counts as none. An exception that ends the block is told by its
    class, and goes on.
    """
    exporting = _OURS.exporting
    return _OFF if exporting is None else exporting.span(name, parent, attributes)


class Served(Protocol):
    """A connection that is served."""

    @property
    def connection(self) -> str:
        """Its id."""
        ...

    @property
    def customer(self) -> str:
        """Whose it is."""
        ...

    @property
    def system(self) -> str:
        """Which system it leads to."""
        ...


def run(name: SpanName, link: Served, **attributes: Unpack[Attributes]) -> AbstractContextManager[None]:
    """A run of a connection as a span."""
    if _OURS.exporting is None:
        return _OFF
    attributes |= {"connection": link.connection, "customer": link.customer, "system": link.system}
    return span(name, **attributes)


def add(**attributes: Unpack[Attributes]) -> None:
    """To the span that is open."""
    if _OURS.exporting is not None:
        _OURS.exporting.add(attributes)


def traceparent() -> Mapping[str, str]:
    """The header that tells a receiver which trace it is called in; empty where no trace is kept."""
    return {} if _OURS.exporting is None else _OURS.exporting.traceparent()


def with_ids(_: object, __: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
    """A log line names the trace that it is said in, where one is kept."""
    if _OURS.exporting is not None:
        event.update(_OURS.exporting.ids())
    return event


def stop() -> None:
    """Sends what is left, for two seconds at most, and keeps nothing more. Blocks."""
    exporting, _OURS.exporting = _OURS.exporting, None
    if exporting is not None:
        exporting.stop()
