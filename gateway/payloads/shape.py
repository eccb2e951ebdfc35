"""A shape: how the samples of a source stand in a document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import jmespath.exceptions
from jmespath.parser import ParsedResult

from gateway.model.errors import DecodeError
from gateway.model.sample import Metrics
from gateway.payloads.document import Encoding, load
from gateway.payloads.fields import FieldRules, Skip, Skipped
from gateway.payloads.formats.values import MAX_METRICS, MAX_NAME_LENGTH, Reason, Unfit
from gateway.payloads.paths import MISSING, Path, find, shown
from gateway.payloads.times import TimeRule

MAX_ITEMS = 10_000
"""Items of one message, and so many of its fields that cannot be taken."""

MAX_RESHAPED = 50_000
"""Values of a document that an expression may go through: each costs it some microseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one message says of one instant. `customer`, `device`: where the payload names them. `at`: device
    time in microseconds since the epoch, None where it sent none.
    """

    at: int | None
    metrics: Metrics
    customer: str | None = None
    device: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Where things are. Every path but `root` and `each` is looked for in an item first, then in the whole
    document. `root`: the part of the document that holds the samples. `each`: the list of items within it.
    `name`, `value`: of an item, where each is one named value. `good`: a path, and what stands there when the
    item can be trusted. Without any of them the document is `{"ts": T, "metrics": {...}}`, flat, or an array.
    """

    format: str = "json"
    encoding: Encoding | None = None
    reshape: ParsedResult | None = None
    root: Path | None = None
    each: Path | None = None
    name: Path | None = None
    value: Path | None = None
    time_path: Path | None = None
    time: TimeRule = field(default_factory=TimeRule)
    good: tuple[Path, object] | None = None
    customer: Path | None = None
    device: Path | None = None
    fields: FieldRules = field(default_factory=FieldRules)
    _used: tuple[Path, ...] = field(init=False, repr=False, compare=False)
    """Places of what is time, quality or owner, and so no metric."""
    _is_plain: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        good = None if self.good is None else self.good[0]
        used = (path for path in (self.time_path, good, self.customer, self.device) if path is not None)
        object.__setattr__(self, "_used", tuple(used))
        is_plain = self.root is None and self.each is None and self.name is None and self.value is None
        object.__setattr__(self, "_is_plain", is_plain)

    def read(self, payload: bytes, metric: str | None, *, received_at: int, skip: Skip) -> list[Piece]:
        """The samples of a message, in its order. What of it cannot be taken is told to `skip`. Raises
        DecodeError where nothing can.
        """
        document = load(payload, self.format, self.encoding)
        if self.reshape is not None:
            document = self._reshaped(document)
        pieces: list[Piece] = []
        skipped: list[Skipped] = []
        for item in self._items(document):
            try:
                pieces += self._pieces(item, document, metric, received_at, skipped.append)
            except DecodeError as error:
                skipped.append(Skipped(name="", reason=Reason(error.reason), detail=error.detail))
            if len(skipped) > MAX_ITEMS:
                raise DecodeError(skipped[0].reason, f"more than {MAX_ITEMS} fields: {skipped[0].detail}")
        if not pieces:
            if skipped:
                raise DecodeError(skipped[0].reason, skipped[0].detail)
            raise DecodeError(Reason.EMPTY, "the message has no metric")
        for one in skipped:
            skip(one)
        # Items of a plain array are samples each, and the later one corrects. So the fast way has it, too: a
        # field that is left out changes nothing of the others.
        is_array_of_samples = self._is_plain and self.reshape is None
        return pieces if is_array_of_samples or len(pieces) == 1 else _merged(pieces, skip)

    def _reshaped(self, document: object) -> object:
        assert self.reshape is not None
        if _values_within(document, MAX_RESHAPED) > MAX_RESHAPED:
            raise DecodeError(
                Reason.TOO_MANY_METRICS,
                f"reshape: the payload has more than {MAX_RESHAPED} values: send fewer at once",
            )
        try:
            return self.reshape.search(document)
        except (
            jmespath.exceptions.JMESPathError,
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise DecodeError(Reason.WRONG_SHAPE, f"reshape: {error}"[:200]) from None

    def _items(self, document: object) -> Iterator[object]:
        place = document
        if self.root is not None:
            place = find(document, self.root)
            if place is MISSING:
                raise DecodeError(Reason.WRONG_SHAPE, f"root: the payload has no {shown(self.root)}")
        if self.each is not None:
            place = find(place, self.each)
            if place is MISSING:
                raise DecodeError(Reason.WRONG_SHAPE, f"each: the payload has no {shown(self.each)}")
        if type(place) is dict and self.each is not None:
            place = list(place.values())
        if type(place) is list:
            if not place:
                raise DecodeError(Reason.EMPTY, "the array is empty")
            if len(place) > MAX_ITEMS:
                raise DecodeError(
                    Reason.TOO_MANY_METRICS, f"{len(place)} items; at most {MAX_ITEMS} are taken"
                )
            yield from place
        else:
            yield place

    def _find(self, item: object, document: object, path: Path) -> object:
        found = find(item, path)
        return find(document, path) if found is MISSING else found

    def _pieces(
        self, item: object, document: object, metric: str | None, received_at: int, skip: Skip
    ) -> Iterator[Piece]:
        if self.good is not None and not _is_same(self._find(item, document, self.good[0]), self.good[1]):
            raise DecodeError(
                Reason.BAD_QUALITY,
                f"{self._name(item, metric) or 'an item'}: {shown(self.good[0])} is not {self.good[1]!r}",
            )
        metrics, at = self._metrics(item, metric, skip), self._time(item, document, received_at)
        if metrics:
            yield Piece(
                at=at,
                metrics=metrics,
                customer=self._owner(item, document, self.customer, "customer"),
                device=self._owner(item, document, self.device, "device"),
            )

    def _name(self, item: object, metric: str | None) -> str | None:
        if self.name is None:
            return metric
        found = _as_name(find(item, self.name))
        if found is MISSING or found is None or isinstance(found, dict | list):
            raise DecodeError(Reason.INVALID_METRIC, f"name: an item has no {shown(self.name)}")
        return str(found)[: MAX_NAME_LENGTH + 1] if metric is None else f"{metric}.{found}"

    def _metrics(self, item: object, metric: str | None, skip: Skip) -> Metrics:
        name = self._name(item, metric)
        if self.value is not None:
            found = find(item, self.value)
            if found is MISSING:
                raise DecodeError(
                    Reason.WRONG_SHAPE, f"value: {name or 'an item'} has no {shown(self.value)}"
                )
            return self.fields.take_one(name or str(self.value[-1]), found, skip)
        if type(item) is dict:
            if self._is_plain:
                item = _plain_metrics(item)
            for path in self._used:
                item = _without(item, path)
            return self.fields.take(item if name is None else {name: item}, skip)
        if name is None:
            raise DecodeError(
                Reason.WRONG_SHAPE,
                f"the payload is a {type(item).__name__}; send an object or an array of objects",
            )
        return self.fields.take_one(name, item, skip)

    def _time(self, item: object, document: object, received_at: int) -> int | None:
        if self.time_path is not None:
            found = self._find(item, document, self.time_path)
        elif type(item) is dict and self._is_plain:
            found = item.get("ts", MISSING)
        else:
            found = MISSING
        if found is not MISSING and found is not None:
            return self.time.read(found, received_at=received_at)
        if self.time.is_required:
            what = "ts" if self.time_path is None else shown(self.time_path)
            raise DecodeError(Reason.MISSING_TIME, f"there is no time: the payload has no {what}")
        return None

    def _owner(self, item: object, document: object, path: Path | None, what: str) -> str | None:
        if path is None:
            return None
        found = _as_name(self._find(item, document, path))
        if isinstance(found, bool) or not isinstance(found, str | int) or found == "":
            raise DecodeError(Reason.INVALID_IDENTIFIER, f"{what}: the payload has no {shown(path)}")
        return str(found)


def _as_name(found: object) -> object:
    """A number that no double holds is a name as it was sent: serial numbers and SIM cards have 20 digits."""
    return found.text if type(found) is Unfit else found


def _values_within(document: object, enough: int) -> int:
    """How many values a document has at every depth; no further than `enough` is counted."""
    count, waiting = 1, [document]
    while waiting and count <= enough:
        held = waiting.pop()
        if isinstance(held, dict | list):
            count += len(held)
            waiting += held.values() if isinstance(held, dict) else held
    return count


def _plain_metrics(item: Mapping[str, object]) -> Mapping[str, object]:
    """Of `{"ts": T, "metrics": {...}}` the inner ones, of a flat object all but the time."""
    nested = item.get("metrics")
    if type(nested) is dict and len(item) == 1 + ("ts" in item):
        return nested
    return _without(item, ("ts",))


def _without(item: Mapping[str, object], path: Path) -> Mapping[str, object]:
    """The object without what stands at a path of keys."""
    key, rest = path[0], path[1:]
    if not isinstance(key, str) or key not in item:
        return item
    left = {**item}
    held = left.pop(key)
    if not rest:
        return left
    return {**item, key: _without(held, rest)} if type(held) is dict else item


def _is_same(found: object, wanted: object) -> bool:
    """As JSON has it: true is not 1."""
    return found == wanted and isinstance(found, bool) == isinstance(wanted, bool)


def _merged(pieces: Sequence[Piece], skip: Skip) -> list[Piece]:
    """Named values of one instant are one sample; those without a time of their own too."""
    merged: dict[tuple[str | None, str | None, int | None], Piece] = {}
    result: list[Piece] = []
    for piece in pieces:
        key = (piece.customer, piece.device, piece.at)
        held = merged.get(key)
        if held is None or (piece.at is None and held.metrics.keys() & piece.metrics.keys()):
            merged[key] = piece
            result.append(piece)
            continue
        for name, value in piece.metrics.items():
            if name in held.metrics and held.metrics[name] != value:
                skip(
                    Skipped(
                        name=name,
                        reason=Reason.SAME_NAME,
                        detail=f"metric {name!r} comes twice for one instant; the first is taken",
                    )
                )
            held.metrics.setdefault(name, value)
        if len(held.metrics) > MAX_METRICS:
            raise DecodeError(
                Reason.TOO_MANY_METRICS, f"at most {MAX_METRICS} metrics are taken of one instant: use `keep`"
            )
    return result
