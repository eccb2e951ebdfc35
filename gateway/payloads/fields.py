"""Fields to metrics: which are taken, under which names, and what a text, a word, an array or a null becomes.

What cannot be a metric is left out and said, and the rest is taken.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Literal

from gateway.model.errors import DecodeError
from gateway.model.sample import Metrics, Value
from gateway.payloads.formats.values import (
    MAX_DEPTH,
    MAX_INTEGER,
    MAX_METRICS,
    MAX_NAME_LENGTH,
    Reason,
    Unfit,
    as_number,
    check_text,
    unfit,
)

# No two parts of it can take the same digit: else a long text that is no number would be tried in every
# way to cut it in two.
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WITH_UNIT = re.compile(
    r"([+-]?(?:[0-9][0-9.,]*|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?)\s*(?:[^0-9\s.,+:/'_-][^0-9:'_]{0,15})"
)
"""A number and its unit: a unit has no digit, or `2h30m`, `3x400V` and `0x1F` would be numbers."""

_THOUSANDS = re.compile(
    r"[+-]?[0-9]{1,3}(?:\.[0-9]{3})+(?:,[0-9]*)?|[+-]?[0-9]*(?:,[0-9]*)?(?:[eE][+-]?[0-9]+)?"
)
"""A number with a decimal comma; its dots stand before groups of three."""


MAX_ARRAY = 64
"""Items of an array that become metrics of their own."""

MAX_FIELDS = 10_000
"""Fields of one sample that are looked at, whatever is left out of them."""

MAX_REMEMBERED = 5_000
"""Names whose metric is remembered: devices say the same names with every message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A field that was left out of a message. `reason` labels a metric."""

    name: str
    reason: Reason
    detail: str


Skip = Callable[[Skipped], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRules:
    """What is taken. `keep` and `drop` are globs over the dotted name; `rename` is by the dotted name, after
    them. `words`: what a text stands for. `text`: `numbers` makes numbers of texts that are some.
    """

    keep: tuple[re.Pattern[str], ...] = ()
    drop: tuple[re.Pattern[str], ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    text: Literal["keep", "numbers"] = "keep"
    decimal: Literal["point", "comma"] = "point"
    units: Literal["keep", "strip"] = "keep"
    words: Mapping[str, Value] = field(default_factory=dict)
    arrays: Literal["skip", "index"] = "skip"
    _names: dict[str, str | None] = field(default_factory=dict, init=False, repr=False, compare=False)
    """By the dotted name of a field, what its metric is called; None where it is not wanted."""

    def take(self, values: Mapping[str, object], skip: Skip) -> Metrics:
        """The metrics of one sample, nested objects flattened with dots; there may be none. Raises
        DecodeError for more than can be stored.
        """
        metrics: Metrics = {}
        self._collect(values, "", metrics, skip, 0, 0)
        return metrics

    def take_one(self, name: str, value: object, skip: Skip) -> Metrics:
        """The metrics of one named value, which may itself be an object."""
        return self.take({name: value}, skip)

    def _collect(
        self,
        values: Mapping[str, object],
        prefix: str,
        metrics: Metrics,
        skip: Skip,
        depth: int,
        looked_at: int,
    ) -> int:
        """Returns how many fields were looked at so far: what a message costs is bounded, not what it is."""
        looked_at += len(values)
        if looked_at > MAX_FIELDS:
            raise DecodeError(
                Reason.TOO_MANY_METRICS, f"more than {MAX_FIELDS} fields in one sample: send fewer at once"
            )
        for key, value in values.items():
            name = f"{prefix}{key}"
            if len(name) > MAX_NAME_LENGTH:
                self._refuse_long(name, skip)  # whatever is in it has a longer one
            elif type(value) is dict:
                if depth >= MAX_DEPTH:
                    skip(Skipped(name=name, reason=Reason.NESTED_TOO_DEEP, detail=f"deeper than {MAX_DEPTH}"))
                else:
                    looked_at = self._collect(value, f"{name}.", metrics, skip, depth + 1, looked_at)
            elif type(value) is list and self.arrays == "index" and not _hits(self.drop, name):
                items = {str(place): item for place, item in enumerate(value[:MAX_ARRAY])}
                if len(value) > MAX_ARRAY:
                    skip(
                        Skipped(
                            name=name,
                            reason=Reason.ARRAY,
                            detail=f"only the first {MAX_ARRAY} items are taken",
                        )
                    )
                if depth < MAX_DEPTH:
                    looked_at = self._collect(items, f"{name}.", metrics, skip, depth + 1, looked_at)
            else:
                self._add(name, value, metrics, skip)
                if len(metrics) > MAX_METRICS:  # which of them were meant nobody can tell
                    raise DecodeError(
                        Reason.TOO_MANY_METRICS,
                        f"at most {MAX_METRICS} metrics are taken in one message: use `keep`",
                    )
        return looked_at

    def _refuse_long(self, name: str, skip: Skip) -> None:
        """Leaves out what no metric can be called, unless what is around it is not wanted anyway."""
        if _hits(self.drop, name[:MAX_NAME_LENGTH].rpartition(".")[0]):
            return
        skip(Skipped(name=name[:MAX_NAME_LENGTH], reason=Reason.INVALID_METRIC, detail=_misnamed(name)))

    def _add(self, name: str, value: object, metrics: Metrics, skip: Skip) -> None:
        try:
            called = self._names[name] if name in self._names else self._called(name)
            if called is None:
                return
            if called in metrics:
                detail = f"metric {called!r} comes twice; the first is taken"
                skip(Skipped(name=called, reason=Reason.SAME_NAME, detail=detail))
                return
            metrics[called] = self._value(called, value)
        except DecodeError as error:
            told = self.rename.get(name, name)[:MAX_NAME_LENGTH]
            skip(Skipped(name=told, reason=Reason(error.reason), detail=error.detail))

    def _called(self, name: str) -> str | None:
        """What the metric of a field is called, from now on remembered. Raises DecodeError where nothing can
        be called so.
        """
        is_wanted = not _hits(self.drop, name) and (not self.keep or _hits(self.keep, name))
        called = self.rename.get(name, name) if is_wanted else None
        if called is not None and not (0 < len(called) <= MAX_NAME_LENGTH and called.isprintable()):
            raise DecodeError(Reason.INVALID_METRIC, _misnamed(called))
        if len(self._names) >= MAX_REMEMBERED:
            self._names.clear()
        self._names[name] = called
        return called

    def _value(self, name: str, value: object) -> Value:
        match value:
            case float():
                if not math.isfinite(value):
                    raise unfit(Unfit(reason=Reason.NOT_FINITE, text=str(value)), name)
                return value
            case bool():
                return value
            case int():
                if abs(value) > MAX_INTEGER:
                    raise unfit(Unfit(reason=Reason.NOT_EXACT, text=str(value)), name)
                return value
            case str():
                return self._text(name, value)
            case Unfit():
                raise unfit(value, name)
            case None:
                raise DecodeError(Reason.NULL, f"metric {name!r} is null")
            case list() | tuple():
                raise DecodeError(
                    Reason.ARRAY, f"metric {name!r} is an array; `arrays: index` takes its items"
                )
            case _:
                raise DecodeError(Reason.WRONG_SHAPE, f"metric {name!r} is a {type(value).__name__}")

    def _text(self, name: str, value: str) -> Value:
        if value in self.words:
            return self.words[value]
        if self.text == "numbers":
            number = value.strip()
            if self.units == "strip" and (found := _WITH_UNIT.fullmatch(number)) is not None:
                number = found[1]
            if self.decimal == "comma":
                number = number.replace(".", "").replace(",", ".") if _THOUSANDS.fullmatch(number) else ""
            if not _NUMBER.fullmatch(number):
                raise DecodeError(
                    Reason.NOT_A_NUMBER, f"metric {name!r} is the text {value[:40]!r}, no number"
                )
            made = as_number(number)
            if isinstance(made, Unfit):
                raise unfit(made, name)
            return made
        return check_text(name, value)


def _misnamed(name: str) -> str:
    return f"metric name {name[:40]!r}: 1 to {MAX_NAME_LENGTH} printable characters"


def _hits(patterns: tuple[re.Pattern[str], ...], name: str) -> bool:
    """Whether a glob matches the name, or that of an object or array around it."""
    return any(pattern.match(name) for pattern in patterns)


def compile_globs(globs: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    """Globs over dotted names, case-sensitive. Each matches what is below a name that it
    matches as well, in one look: a name of a thousand dots is around a thousand others.
    """
    return tuple(re.compile(translate(glob).removesuffix(r"\Z") + r"(?:\.(?s:.*))?\Z") for glob in globs)
