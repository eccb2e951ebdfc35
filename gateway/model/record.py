"""Records as they are kept: what is stored of one that a system gave, and where a reader of them has come to.
Pure.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from urllib.parse import quote

import orjson

from gateway.model import bounds
from gateway.model.inbound import Exact, InboundRecord, InboundStream, Mended

Change = Literal["created", "modified", "deleted"]
Phase = Literal["initial", "incremental", "reconcile"]

MAX_KEY_BYTES = 512
MAX_BODY_BYTES = 256 << 10
MAX_DEPTH = 100
MAX_INTEGER = 10**300
"""Beyond a hundred levels and three hundred digits neither PostgreSQL nor a consumer is
sure to read a body.
"""

CUT_BYTES = 512
"""What is kept of a text within a body that is cut."""

MAX_POSITION = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is stored of a record. `body` is canonical JSON; `fault`: why it is not all of what the system
    gave.
    """

    key: str
    body: bytes
    hash: bytes
    source_modified_at: datetime | None
    deleted: bool
    truncated: bool
    progress: str | None
    reference: str | None
    fault: str | None = None


def keep(record: InboundRecord, *, max_body_bytes: int = MAX_BODY_BYTES) -> Kept:
    """What is stored. Total: whatever a body holds, something of it is kept, and `fault` says what is
    missing.

    Raises ValueError for a key that cannot name anything: its record cannot be told from others.
    """
    key = record.key
    if not key or len(key.encode(errors="replace")) > MAX_KEY_BYTES or bounds.text(key) != key:
        raise ValueError(f"a key of 1 to {MAX_KEY_BYTES} bytes of text was expected: {key[:80]!r}")
    body, fault = _canonical(record.body)
    if len(body) > max_body_bytes:
        numbers_as_they_are = json.loads(body, parse_int=Exact, parse_float=Exact)
        size, body = len(body), _cut(numbers_as_they_are, max_body_bytes)
        fault = f"its body has {size} bytes; {max_body_bytes} are kept at most"
    reference = None if record.reference is None else bounds.text(record.reference)
    digest = hashlib.blake2b(body, digest_size=16)
    if record.progress is not None or reference is not None:
        digest.update(f"\0{record.progress}\0{reference}".encode())
    modified_at = record.modified_at
    return Kept(
        key=key,
        body=body,
        hash=digest.digest(),
        source_modified_at=None if modified_at is None else bounds.instant(modified_at),
        deleted=record.is_deleted,
        truncated=fault is not None,
        progress=record.progress,
        reference=reference,
        fault=fault,
    )


def latest(kept: Iterable[Kept]) -> list[Kept]:
    """One of each key: of the latest time, and of two with the same the one that came last."""
    found: dict[str, Kept] = {}
    for each in kept:
        before = found.get(each.key)
        if before is None or not is_older(each.source_modified_at, before.source_modified_at):
            found[each.key] = each
    return list(found.values())


def is_older(at: datetime | None, than: datetime | None) -> bool:
    """Whether both times are known, and the first is before the second."""
    return at is not None and than is not None and at < than


def _canonical(body: Mapping[str, object]) -> tuple[bytes, str | None]:
    """Sorted, without spaces; equal bodies are equal bytes."""
    try:
        # a `Mended` text is a subclass, and looked at
        written = orjson.dumps(
            body, default=digits_of, option=orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_SUBCLASS
        )
    except (TypeError, RecursionError):
        return _cleaned(body)
    if b"\\u0000" in written or written.count(b"[") + written.count(b"{") > MAX_DEPTH:
        return _cleaned(body)
    return written, None


def _cleaned(body: object) -> tuple[bytes, str | None]:
    """As JSON can hold it and PostgreSQL can store it."""
    faults: set[str] = set()
    clean = _clean(body, 0, faults)
    return _written(clean), "; ".join(sorted(faults)) or None


def _written(clean: object) -> bytes:
    return orjson.dumps(clean, default=digits_of, option=orjson.OPT_SORT_KEYS)


def digits_of(value: object) -> orjson.Fragment:
    """For a writer of JSON: an `Exact` number as it was written. Raises TypeError for anything else."""
    if isinstance(value, Exact):
        return orjson.Fragment(value.text)
    raise TypeError(type(value).__name__)


def _clean(value: object, depth: int, faults: set[str]) -> object:
    if depth > MAX_DEPTH:
        faults.add(f"its body is nested more than {MAX_DEPTH} deep")
        return None
    match value:
        case None | bool():
            return value
        case float():
            return value if math.isfinite(value) else None  # as orjson writes it
        case str():
            text = value.replace("\0", "\ufffd").encode(errors="replace").decode()
            if text != value or isinstance(value, Mended):
                faults.add("its body has characters that no JSON document may hold")
            return text
        case int():
            if abs(value) < 2**63:
                return value
            if abs(value) <= MAX_INTEGER:
                return Exact(str(value))
            faults.add("its body has an integer of more than 300 digits")
            return None
        case Mapping():
            return {
                str(_clean(str(key), 0, faults)): _clean(each, depth + 1, faults)
                for key, each in value.items()
            }
        case list() | tuple():
            return [_clean(each, depth + 1, faults) for each in value]
        case _:
            faults.add(f"its body has a value that is no JSON ({type(value).__name__})")
            return None


def _cut(body: Mapping[str, object], max_bytes: int) -> bytes:
    """As many of its fields, in order of their names, as fit, each with its long texts cut; the rest is left
    out.
    """
    kept: dict[str, object] = {}
    size = 2
    for key, value in sorted(body.items()):
        written = len(_written({key: _short(value)}))
        if size + written > max_bytes:
            continue
        kept[key] = _short(value)
        size += written
    return _written(kept)


def _short(value: object) -> object:
    if isinstance(value, str) and len(value.encode()) > CUT_BYTES:
        return value.encode()[:CUT_BYTES].decode(errors="ignore")
    return value


# What is asked next


def phases_of(streams: Sequence[InboundStream], *, initial_days: int) -> list[tuple[str, Phase]]:
    """The phases that a connection's streams are read in.

    A `listing` is given whole each time: it has no history of its own, and shows its deletions itself.
    """
    found: list[tuple[str, Phase]] = []
    for stream in streams:
        found.append((stream.name, "incremental"))
        if stream.cursor != "listing" and initial_days:
            found.append((stream.name, "initial"))
        if stream.deletions == "keys" or (stream.deletions == "listing" and stream.cursor != "listing"):
            found.append((stream.name, "reconcile"))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """[low, high) on the system's clock; low None: from the beginning."""

    low: datetime | None
    high: datetime


def next_interval(
    committed: datetime, now: datetime, *, settle: timedelta, lookback: timedelta
) -> Interval | None:
    """What an incremental run reads after everything before `committed`, when the system's clock shows `now`;
    None while nothing new can have settled (its clock was set back, too).
    """
    high = now - settle
    return None if high <= committed else Interval(low=committed - lookback, high=high)


def next_slice(origin: datetime, done_to: datetime, *, days: int, slice_length: timedelta) -> Interval | None:
    """The newest part of [origin - days, done_to), which is the history that is not read yet; None: it all
    is.
    """
    oldest = origin - timedelta(days=days)
    return None if done_to <= oldest else Interval(low=max(oldest, done_to - slice_length), high=done_to)


def halved(interval: Interval, read_to: datetime | None = None) -> Interval:
    """Its older half, in whole seconds; itself where it has less than two. What is before `read_to` was read
    and is only looked at once more: what is behind it is halved, so that something new is read each time.
    """
    low = interval.low if interval.low is None or read_to is None else max(interval.low, read_to)
    if low is None or interval.high - low < timedelta(seconds=2):
        return interval
    middle = low + (interval.high - low) / 2
    return Interval(low=interval.low, high=middle.replace(microsecond=0))


MAX_VANISHED = 0.2
ALWAYS_MAY_VANISH = 1


def may_vanish(missing: int, alive: int) -> bool:
    """Whether so many may be taken for deleted without asking a person: a fifth of what is there, or a single
    one.
    """
    return missing <= max(ALWAYS_MAY_VANISH, MAX_VANISHED * alive)


class Cycle:
    """Tells a walk that goes round: a cursor that came before. Keeps one cursor, not
    all (Brent's algorithm).
    """

    def __init__(self) -> None:
        self._kept: str | None = None
        self._steps, self._until = 0, 1

    def closes(self, cursor: str) -> bool:
        """Whether the walk is in a circle: within a few rounds of it this is True."""
        if cursor == self._kept:
            return True
        self._steps += 1
        if self._steps == self._until:
            self._kept, self._steps, self._until = cursor, 0, 2 * self._until
        return False


# Where a reader has come to


def change_of(version: int, *, deleted: bool) -> Change:
    """What the last change of a record was."""
    if deleted:
        return "deleted"
    return "created" if version == 1 else "modified"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPlace:
    """Where a reader has come to in the record log of a customer. `epoch`: of the log, which a restore ends;
    None in a cursor that was written before there were epochs, as is its `customer`. `began`: where the log
    stood when he began to read from its beginning, until he has come there; else 0. What was deleted before
    he began he never met.
    """

    customer: str | None
    epoch: int | None
    position: int
    began: int = 0

    @property
    def knows(self) -> int:
        """Up to where a record that was deleted and removed is none that the reader holds."""
        return max(self.position, self.began)


BEGINNING = LogPlace(customer=None, epoch=None, position=0)


def write_cursor(place: LogPlace) -> str:
    """The opaque cursor of everything up to this position of the log."""
    parts: list[object] = [place.position, place.epoch, place.customer]
    if place.began > place.position:
        parts.append(place.began)
    return base64.urlsafe_b64encode(orjson.dumps(parts)).rstrip(b"=").decode()


def read_cursor(cursor: str | None, *, customer: str) -> LogPlace:
    """The place in the log of this customer. Raises ValueError for what is no cursor, and for one of
    another's log.
    """
    place = BEGINNING if cursor is None else _read_cursor(cursor)
    if place.customer not in (None, customer):
        raise ValueError(
            "cursor: it is of another customer's records: keep one for each, or leave it out to begin anew"
        )
    return place


def _read_cursor(cursor: str) -> LogPlace:
    try:
        parts = orjson.loads(
            base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        )
    except (binascii.Error, ValueError) as error:
        raise ValueError(
            "cursor: give back what `next` said, unchanged; or leave it out to begin anew"
        ) from error
    match parts:
        case [int() as position] if _is_position(position):
            return LogPlace(customer=None, epoch=None, position=position)
        case [int() as position, int() as epoch, str() as customer] if _is_position(
            position
        ) and _is_position(epoch):
            return LogPlace(customer=customer, epoch=epoch, position=position)
        case [int() as position, int() as epoch, str() as customer, int() as began] if (
            _is_position(position) and _is_position(epoch) and _is_position(began)
        ):
            return LogPlace(customer=customer, epoch=epoch, position=position, began=began)
        case _:
            raise ValueError("cursor: give back what `next` said, unchanged; or leave it out to begin anew")


def _is_position(number: int) -> bool:
    return not isinstance(number, bool) and 0 <= number <= MAX_POSITION


def topic_level(key: str) -> str:
    """The key as one level of an MQTT topic: percent-encoded but for letters, digits and `-._~`."""
    return quote(key, safe="")
