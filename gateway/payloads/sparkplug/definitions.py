"""What a birth defines: the names of aliases and the datatypes of names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import orjson

from gateway.model.errors import DecodeError
from gateway.payloads.formats.values import MAX_DEPTH, MAX_NAME_LENGTH, Reason
from gateway.payloads.sparkplug import wire

Line = tuple[str, int | None, int]
"""Name, alias, datatype. A member of a template is `Motor.speed`, and has no alias."""


@dataclass(frozen=True)
class Definitions:
    """Of one birth. Equal ones have one digest."""

    lines: tuple[Line, ...]

    @cached_property
    def by_alias(self) -> Mapping[int, tuple[str, int]]:
        """Name and datatype."""
        return {alias: (name, datatype) for name, alias, datatype in self.lines if alias is not None}

    @cached_property
    def by_name(self) -> Mapping[str, int]:
        """Datatype."""
        return {name: datatype for name, _, datatype in self.lines}

    @cached_property
    def of_names(self) -> Definitions:
        """Without the aliases."""
        return Definitions(tuple((name, None, datatype) for name, _, datatype in self.lines))

    @cached_property
    def digest(self) -> str:
        """Tells them from others."""
        return hashlib.blake2b(self.payload(), digest_size=12).hexdigest()

    def payload(self) -> bytes:
        """As they are stored."""
        return orjson.dumps(self.lines)


def from_stored(lines: Sequence[Sequence[object]]) -> Definitions:
    """What `payload` said."""
    return Definitions(
        tuple((str(name), alias, datatype) for name, alias, datatype in lines)  # type: ignore[misc]
    )


def agreed(several: Iterable[Definitions]) -> Definitions:
    """What all of them say that say something of it: an alias that stood for two names is none."""
    datatypes: dict[str, int] = {}
    names: dict[int, set[str]] = {}
    for definitions in several:
        for name, alias, datatype in definitions.lines:
            datatypes[name] = datatype
            if alias is not None:
                names.setdefault(alias, set()).add(name)
    lines: list[Line] = [(name, None, datatype) for name, datatype in datatypes.items()]
    for alias, those in names.items():
        if len(those) == 1:
            name = next(iter(those))
            lines.append((name, alias, datatypes[name]))
    return Definitions(tuple(lines))


def of_birth(payload: wire.Payload) -> Definitions:
    """Raises DecodeError for a birth that gives one alias to two names: none of its
    data could be told apart.
    """
    found: dict[str, Line] = {}
    names: dict[int, str] = {}
    for metric in payload.metrics:
        if not (name := _storable(metric.name)):
            continue
        alias = metric.alias if metric.HasField("alias") else None
        if alias is not None and names.setdefault(alias, name) != name:
            raise DecodeError(
                Reason.SAME_NAME, f"alias {alias} stands for {names[alias][:80]!r} and for {name[:80]!r}"
            )
        found[name] = (name, alias, metric.datatype)
        if metric.WhichOneof("value") == "template_value":
            for line in _members(metric.template_value, f"{name}.", 0):
                found.setdefault(line[0], line)
    return Definitions(tuple(found.values()))


def _storable(name: object) -> str:
    """A name that no metric can have stays one when it is stored, and something that PostgreSQL can hold: the
    data that come under its alias are then left out as the birth's own value was.
    """
    if isinstance(name, str) and len(name) <= MAX_NAME_LENGTH and name.isprintable():
        return name
    return "\n" + ascii(name)[:MAX_NAME_LENGTH]


def _members(template: wire.Template, prefix: str, depth: int) -> Iterator[Line]:
    if depth >= MAX_DEPTH:
        return
    for metric in template.metrics:
        if member := _storable(metric.name):
            name = prefix + member
            yield name, None, metric.datatype
            if metric.WhichOneof("value") == "template_value":
                yield from _members(metric.template_value, f"{name}.", depth + 1)
