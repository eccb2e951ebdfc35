"""Structured logs on stderr: JSON or console, secrets redacted, the standard library's loggers routed in."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import TextIO

import orjson
import structlog
from structlog.typing import Processor

from gateway import clock, tracing
from gateway.settings import LoggingSettings

REDACTED = "(redacted)"

_SECRET = re.compile(
    r"password|passphrase|secret|token|authorization|api_?key|private_?key|encryption_?key|credential|cookie"
    r"|dsn|^payload$",
    re.IGNORECASE,
)
_PASSWORD_IN_URL = re.compile(r"(://[^/@\s:]*:)[^/@\s]+@")
_QUIET = ("aiomqtt", "asyncio", "httpcore", "httpx", "mqtt", "uvicorn", "uvicorn.access", "uvicorn.error")
"""Libraries that speak below warning of what we say ourselves."""

_SILENT = ("asyncpg.pool",)
"""It warns, with a traceback, of each session that a database which is away refuses: we say that it is."""


def setup(settings: LoggingSettings, *, stream: TextIO | None = None) -> None:
    """Every log line of this process goes to `stream` (stderr) from now on. Idempotent."""
    output = sys.stderr if stream is None else stream
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.StackInfoRenderer(),
        _stamp,
        tracing.with_ids,
        redact,
    ]
    last: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
        if settings.format == "json"
        else [
            structlog.dev.ConsoleRenderer(
                colors=output.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(output),
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[_library, structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.captureWarnings(capture=True)


def redact(_: object, __: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
    """Replaces the values of keys that name a secret or a payload, and passwords inside
    URLs, at any depth.
    """
    for key, value in event.items():
        event[key] = _clean(key, value)
    return event


def _clean(key: str, value: object) -> object:
    if _SECRET.search(key) and not isinstance(value, bool | int | float | None):
        return REDACTED
    match value:
        case str():
            return _PASSWORD_IN_URL.sub(rf"\1{REDACTED}@", value)
        case Mapping():
            return {str(name): _clean(str(name), inner) for name, inner in value.items()}
        case list() | tuple():
            return [_clean("", inner) for inner in value]
        case _:
            return value


def _stamp(_: object, __: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
    event["at"] = clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return event


def _library(_: object, __: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
    """A library's sentence is its text; the event says where it is from."""
    event["text"] = event.pop("event", "")
    event["event"] = f"library.{str(event.pop('logger', 'root')).replace('.', '_')}_logged"
    return event


def _json(value: Mapping[str, object], **_: object) -> str:
    first = {name: value[name] for name in ("at", "level", "event") if name in value}
    return orjson.dumps({**first, **value}, default=str, option=orjson.OPT_NON_STR_KEYS).decode(
        errors="replace"
    )
