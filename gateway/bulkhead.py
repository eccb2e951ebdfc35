"""The bulkhead: where one connection's work begins, whatever is raised in it is that connection's and ends
nothing else. The only place that catches everything.

A fault has a reference that is the same for the same fault of the same connection, so that what its customer
reads leads to one line of the log. It is counted each time, and logged with its trace when it is new and when
it is over.
"""

from __future__ import annotations

import hashlib
import re
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import structlog

from gateway import metrics
from gateway.model.errors import StoreUnavailable, Unavailable

log = structlog.get_logger(__name__)

RowT = TypeVar("RowT")
ReadT = TypeVar("ReadT")

Part = Literal[
    "alert", "build", "decode", "capabilities", "close", "command", "declaration", "drain", "ensure", "event", "find", "issue", "meters", "note", "probe",
    "pull", "push", "raise", "records", "refresh", "request", "row", "run", "status", "token", "upkeep", "verification", "webhook",
]  # fmt: skip

MAX_TRACE = 8000
MAX_CAUSES = 8
MIN_SECRET = 4
"""Shorter pieces of a secret are in every text."""

HIDDEN = "(redacted)"
_HEADER = re.compile(r"\b(bearer|basic)\s+[^\s'\"]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that nobody foresaw. `text` is for whoever has the connection: never a
    trace, never a secret.
    """

    reference: str

    @property
    def text(self) -> str:
        """What is shown."""
        return f"internal error, reference {self.reference}; the operator finds it in the log"


@dataclass(slots=True)
class Contained:
    """What became of the work: `fault` where it failed."""

    fault: Fault | None = None


_known: dict[tuple[Part, str], str] = {}
"""The references that the log has, of faults that are not over."""


@contextmanager
def contained(
    part: Part,
    subject: str,
    *,
    secrets: Collection[str] = (),
    passes: tuple[type[Exception], ...] = (),
) -> Iterator[Contained]:
    """Ends the block where it raises, and goes on after it: look at the `fault`. `subject` is the connection,
    or what else the work is for; `secrets` never reach the log; `passes`: errors that were foreseen.

    StoreUnavailable passes, for it concerns all; so does what is no Exception, such as a cancellation.
    """
    made = Contained()
    try:
        yield made
    except StoreUnavailable:
        raise
    except Exception as error:
        if isinstance(error, passes):
            over(part, subject)
            raise
        made.fault = note(part, subject, error, secrets=secrets)
    else:
        over(part, subject)


def note(part: Part, subject: str, error: BaseException, *, secrets: Collection[str] = ()) -> Fault:
    """Counts a fault, and logs it unless it is the one that is known already. One that was contained before
    keeps its reference.
    """
    if isinstance(error, Unavailable) and error.reference is not None:
        return Fault(reference=error.reference)
    metrics.INTERNAL_ERRORS.labels(part).inc()
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    digest = hashlib.sha256("\n".join((part, subject, *_places(error))).encode(errors="replace"))
    reference = digest.hexdigest()[:8]
    if _known.get((part, subject)) != reference:
        _known[part, subject] = reference
        log.error(
            "gateway.fault_contained",
            part=part,
            subject=subject,
            reference=reference,
            error=kind,
            trace=_trace(error, secrets),
            advice="it ends nothing else and is tried again; please report it",
        )
    return Fault(reference=reference)


def over(part: Part, subject: str) -> None:
    """The work went well."""
    reference = _known.pop((part, subject), None) if _known else None
    if reference is not None:
        log.info("gateway.fault_ended", part=part, subject=subject, reference=reference)


def readable(
    rows: Iterable[RowT], read: Callable[[RowT], ReadT], *, name: Callable[[RowT], object]
) -> list[ReadT]:
    """What can be read of these rows; one that cannot is counted, logged under its `name`, and left out."""
    found: list[ReadT] = []
    for row in rows:
        subject = str(name(row))
        with contained("row", subject):
            found.append(read(row))
    return found


def _places(error: BaseException | None) -> Iterator[str]:
    """Which exceptions, raised where: what stays the same when a fault comes again. Not their words, which
    may differ each time.
    """
    for _ in range(MAX_CAUSES):
        if error is None:
            return
        yield f"{type(error).__module__}.{type(error).__qualname__}"
        for frame, line in traceback.walk_tb(error.__traceback__):
            yield f"{frame.f_code.co_filename}:{line}"
        error = error.__cause__


def _trace(error: BaseException, secrets: Collection[str]) -> str:
    """The trace without what is secret, whole or in pieces. An exception that cannot be printed is told by
    its frames.
    """
    try:
        written = "".join(traceback.TracebackException.from_exception(error).format())
    except Exception:
        written = "".join(traceback.format_tb(error.__traceback__)) + type(error).__qualname__
    pieces = {piece for secret in secrets for piece in (secret, *re.split(r"[\s:/@?&=#\[\]\"',]+", secret))}
    for piece in sorted(pieces, key=len, reverse=True):
        if len(piece) >= MIN_SECRET:
            for form in {piece, repr(piece)[1:-1], ascii(piece)[1:-1]}:
                written = written.replace(form, HIDDEN)
    written = _HEADER.sub(rf"\1 {HIDDEN}", written)
    return written[-MAX_TRACE:].encode(errors="replace").decode()
