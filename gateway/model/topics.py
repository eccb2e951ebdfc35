"""Topics: source templates, the filters that subscribe them, and what a topic says about a message. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FIELDS = frozenset({"customer", "device", "metric"})
_FIELD = re.compile(r"\{([a-z]+)\}")


class TemplateError(ValueError):
    """A source's topic cannot be used; the text says why and what to write instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A compiled source. `levels` holds literals, or the name of a field in braces, one per topic level."""

    topic: str
    format: str
    levels: tuple[str, ...]

    def filter(self, customer: str | None) -> str:
        """The MQTT filter: every field is `+`, the customer its own id where one is given."""
        return "/".join(
            level if level[0:1] != "{" else customer if customer and level == "{customer}" else "+"
            for level in self.levels
        )

    def match(self, levels: Sequence[str]) -> dict[str, str] | None:
        """The fields of a topic split at `/`, None when it is not one of this source."""
        if len(levels) != len(self.levels):
            return None
        fields: dict[str, str] = {}
        for wanted, level in zip(self.levels, levels, strict=True):
            if wanted[0:1] == "{":
                fields[wanted[1:-1]] = level
            elif wanted != level:
                return None
        return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What a topic says: whose device, in which format, and for a scalar which metric."""

    customer: str
    device: str
    metric: str | None
    format: str


def compile_source(topic: str, format: str) -> Source:
    """Checks a template and splits it. Raises TemplateError."""
    if not topic or topic.startswith(("/", "$")) or any(character in topic for character in "+#\0"):
        raise TemplateError(
            f"{topic!r}: a template has literal levels and fields, no wildcard, and does not begin with / or $"
        )
    levels = tuple(topic.split("/"))
    fields: list[str] = []
    for level in levels:
        if "{" in level or "}" in level:
            found = _FIELD.fullmatch(level)
            if found is None or found[1] not in FIELDS:
                raise TemplateError(
                    f"{topic!r}: level {level!r} must be a literal or one of {{customer}}, {{device}}, {{metric}} alone"
                )
            fields.append(found[1])
    if fields.count("customer") != 1 or fields.count("device") != 1 or len(fields) != len(set(fields)):
        raise TemplateError(f"{topic!r}: a source needs {{customer}} and {{device}}, each once")
    if ("metric" in fields) != (format == "scalar"):
        raise TemplateError(
            f"{topic!r}: {{metric}} belongs to the format scalar, and only to it (here: {format})"
        )
    return Source(topic=topic, format=format, levels=levels)


def overlapping(sources: Sequence[Source]) -> list[tuple[Source, Source]]:
    """Pairs that one topic could match both of: each of its messages would arrive twice."""
    return [
        (first, second)
        for place, first in enumerate(sources)
        for second in sources[place + 1 :]
        if _overlap(first, second)
    ]


def _overlap(first: Source, second: Source) -> bool:
    if len(first.levels) != len(second.levels):
        return False
    return all(
        a == b or a[0:1] == "{" or b[0:1] == "{" for a, b in zip(first.levels, second.levels, strict=True)
    )


def route(topic: str, sources: Iterable[Source]) -> Route | None:
    """The route of a topic, None when no source matches it. The ids in it are not yet checked."""
    levels = topic.split("/")
    for source in sources:
        fields = source.match(levels)
        if fields is not None:
            return Route(
                customer=fields["customer"],
                device=fields["device"],
                metric=fields.get("metric"),
                format=source.format,
            )
    return None


def partition_of(customer: str, partitions: int) -> int:
    """The ingest partition of a customer: stable over restarts and machines."""
    return int.from_bytes(hashlib.blake2b(customer.encode(), digest_size=8).digest()) % partitions


def filters(
    sources: Sequence[Source], customers: Sequence[str], *, partition: int, partitions: int
) -> list[str]:
    """What a partition subscribes. One partition takes every customer, so that unknown ones are seen and
    refused; several divide the listed ones.
    """
    if partitions == 1:
        return [source.filter(None) for source in sources]
    mine = [customer for customer in customers if partition_of(customer, partitions) == partition]
    return [source.filter(customer) for customer in mine for source in sources]
