"""Topics: source templates, the filters that subscribe them, and what a topic says about a message. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import translate
from typing import Literal

IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
FIELDS = frozenset({"customer", "device", "metric"})
_FIELD = re.compile(r"\{([a-z_]+)(\.\.\.)?\}")
ANY = "_"

Format = Literal["json", "scalar", "cbor", "msgpack", "sparkplug_b"]
SPARKPLUG = "spBv1.0"


class TemplateError(ValueError):
    """A source's topic cannot be used; the text says why and what to write instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level of a template. `literal`: the level itself, where it has no field. `rest`: the field that
    takes this level and others. `pattern`: what the level matches, its fields as groups.
    """

    text: str
    pattern: str
    literal: str | None = None
    rest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A compiled topic template. `customer`, `device`: fixed by the source and in no topic of it.
    `from_payload`: which of the two the payload names. `ignored`: topics that are not telemetry.
    """

    topic: str
    format: str
    levels: tuple[Level, ...]
    pattern: re.Pattern[str]
    customer: str | None = None
    device: str | None = None
    from_payload: frozenset[str] = frozenset()
    ignored: tuple[re.Pattern[str], ...] = ()

    @property
    def group_place(self) -> int:
        """Which level is the group, of a source of Sparkplug."""
        return len(self.levels) - 2

    @property
    def is_divided(self) -> bool:
        """Whether the customer is a whole level of the topic, so that partitions can divide customers."""
        return any(level.text == "{customer}" for level in self.levels)

    def filter(self, customer: str | None) -> str:
        """The MQTT filter: every level with a field is `+`, the customer its own id where one is given."""
        parts: list[str] = []
        for level in self.levels:
            if level.rest is not None:
                return "/".join([*parts, "#"])
            if level.literal is not None:
                parts.append(level.literal)
            else:
                parts.append(customer if customer and level.text == "{customer}" else "+")
        return "/".join(parts)

    def match(self, topic: str) -> dict[str, str] | None:
        """The fields of a topic, None when it is not one of this source."""
        found = self.pattern.fullmatch(topic)
        return None if found is None else found.groupdict()


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What a topic says: whose device, in which format, and which metric where it names one. `place`: of the
    source among the others. `customer` and `device` are None where the payload names them.
    """

    customer: str | None
    device: str | None
    metric: str | None
    format: str
    place: int = 0
    is_ignored: bool = False


def compile_source(
    topic: str,
    format: str,
    *,
    customer: str | None = None,
    device: str | None = None,
    from_payload: Iterable[str] = (),
    ignored: Iterable[str] = (),
) -> Source:
    """Checks a template and splits it. Raises TemplateError.

    `{customer}`, `{device}` and `{metric}` stand for a level or a part of one, `{_}` for any level or part,
    `{device...}` and `{metric...}` for one level or more. `ignored`: globs of whole topics. A source of
    Sparkplug is `spBv1.0/GROUP/#`.
    """
    template = _sparkplug_levels(topic) if format == "sparkplug_b" else topic
    if not template or any(character in template for character in "+#\0") or template.startswith("$share/"):
        raise TemplateError(
            f"{topic!r}: a template has literal levels and fields such as {{device}}, and no wildcard"
        )
    texts = template.split("/")
    fields: list[str] = []
    levels = []
    for text in texts:
        level, found = _level(topic, text)
        levels.append(level)
        fields += found
    named = [field for field in fields if field != ANY]
    if twice := sorted({field for field in named if named.count(field) > 1}):
        raise TemplateError(f"{topic!r}: {{{twice[0]}}} stands there twice")
    given = {"customer": customer, "device": device}
    elsewhere = frozenset(from_payload)
    for what, fixed in given.items():
        ways = (what in named) + (fixed is not None) + (what in elsewhere)
        if ways == 0:
            raise TemplateError(
                f"{topic!r}: nothing says which {what} it is: put {{{what}}} into the topic, or set `{what}`"
                " to an id, or to a path of the payload"
            )
        if ways > 1:
            raise TemplateError(
                f"{topic!r}: the {what} is said more than once: by the topic, or by `{what}`, not by both"
            )
    if format == "scalar" and "metric" not in named:
        raise TemplateError(f"{topic!r}: a scalar has no name of its own: put {{metric}} into the topic")
    return Source(
        topic=topic,
        format=format,
        levels=tuple(levels),
        pattern=re.compile("/".join(level.pattern for level in levels)),
        customer=customer,
        device=device,
        from_payload=elsewhere,
        ignored=tuple(re.compile(translate(glob)) for glob in ignored),
    )


def is_sparkplug(pattern: str) -> bool:
    """Whether a filter is that of a source of Sparkplug."""
    levels = pattern.split("/")
    return levels[-1] == "#" and levels[-3:-2] == [SPARKPLUG]


def _sparkplug_levels(topic: str) -> str:
    """The template of what stands behind the group: which levels those are the format itself knows."""
    levels = topic.split("/")
    if len(levels) < 3 or levels[-1] != "#" or levels[-3] != SPARKPLUG:
        raise TemplateError(
            f"{topic!r}: a source of Sparkplug is {SPARKPLUG}/GROUP/#, where GROUP is {{customer}}, {{_}} or"
            " the name of a group"
        )
    return "/".join([*levels[:-1], "{_...}"])


def _level(topic: str, text: str) -> tuple[Level, list[str]]:
    """One level, and the fields in it."""
    if "{" not in text and "}" not in text:
        return Level(text=text, pattern=re.escape(text), literal=text), []
    fields: list[str] = []
    pattern, end = "", 0
    for found in _FIELD.finditer(text):
        name, rest = found[1], found[2]
        if name not in FIELDS and name != ANY:
            raise TemplateError(
                f"{topic!r}: {found[0]} is none of {{customer}}, {{device}}, {{metric}} and {{_}}"
            )
        if rest and (text != found[0] or name == "customer"):
            raise TemplateError(
                f"{topic!r}: {found[0]} takes whole levels: it stands alone between two `/`, and is not the"
                " customer"
            )
        if fields and found.start() == end:
            raise TemplateError(f"{topic!r}: in {text!r} a literal has to stand between two fields")
        some = ".+?" if rest else "[^/]*?"
        group = some if name == ANY else rf"(?P<{name}>{some})"
        pattern += re.escape(text[end : found.start()]) + group
        fields.append(name)
        end = found.end()
        if rest:
            return Level(text=text, pattern=group, rest=name), fields
    if not fields or any(character in _FIELD.sub("", text) for character in "{}"):
        raise TemplateError(
            f"{topic!r}: level {text!r} must be a literal, or have fields such as {{device}} in it"
        )
    return Level(text=text, pattern=pattern + re.escape(text[end:])), fields


def filter_fault(text: str) -> str | None:
    """Why no broker takes it as a filter; None where one does."""
    levels = text.split("/")
    if not text or "\0" in text:
        return "it is empty" if not text else "it holds a NUL"
    if any("#" in level for level in levels[:-1]) or levels[-1] not in ("#", levels[-1].replace("#", "")):
        return "`#` stands for the rest: a level of its own, and the last one"
    if any("+" in level and level != "+" for level in levels):
        return "`+` stands for one level, and is all of it"
    return None


def topic_fault(text: str) -> str | None:
    """Why nobody can publish to it; None where one can."""
    if not text or "\0" in text:
        return "it is empty" if not text else "it holds a NUL"
    return "`+` and `#` are for filters: give the topic of one message" if {"+", "#"} & {*text} else None


def overlapping(sources: Sequence[Source]) -> list[tuple[Source, Source]]:
    """Pairs that one topic could match both of: each of its messages would arrive twice. Where both subscribe
    the same filter it arrives once, and the first that matches takes it.
    """
    return [
        (first, second)
        for place, first in enumerate(sources)
        for second in sources[place + 1 :]
        if _overlap(first, second)
        and (first.topic == second.topic or first.filter(None) != second.filter(None))
    ]


def _overlap(first: Source, second: Source) -> bool:
    for a, b in zip(first.levels, second.levels, strict=False):
        if a.rest is not None or b.rest is not None:
            return _ends_may_equal(first, second)
        if not _may_equal(a, b):
            return False
    return len(first.levels) == len(second.levels)


def _ends_may_equal(first: Source, second: Source) -> bool:
    """Behind a field that takes any number of levels only literals at the very end can tell two apart."""
    a, b = first.levels[-1], second.levels[-1]
    return a.rest is not None or b.rest is not None or _may_equal(a, b)


def _may_equal(first: Level, second: Level) -> bool:
    """Whether one level of a topic can match both. Of two with fields it is taken for granted."""
    if first.literal is not None:
        return re.fullmatch(second.pattern, first.literal) is not None
    if second.literal is not None:
        return re.fullmatch(first.pattern, second.literal) is not None
    return True


def route(topic: str, sources: Iterable[Source]) -> Route | None:
    """The route of a topic, None when no source matches it. The ids in it are not yet checked."""
    for place, source in enumerate(sources):
        fields = source.match(topic)
        if fields is not None:
            return Route(
                customer=fields.get("customer", source.customer),
                device=fields.get("device", source.device),
                metric=fields.get("metric"),
                format=source.format,
                place=place,
                is_ignored=any(pattern.match(topic) for pattern in source.ignored),
            )
    return None


def partition_of(customer: str, partitions: int) -> int:
    """The ingest partition of a customer: stable over restarts and machines."""
    return int.from_bytes(hashlib.blake2b(customer.encode(), digest_size=8).digest()) % partitions


def owner_of(
    sources: Sequence[Source], customers: Sequence[str], *, partition: int, partitions: int
) -> str | None:
    """The customer that has this partition alone, of the listed ones: nobody else's messages come by it, so
    that its reading may wait. None where there are several, or where a source of the partition may carry
    anybody's.
    """
    listed = set(customers)
    mine = {one for one in listed if partitions == 1 or partition_of(one, partitions) == partition}
    for source in sources:
        if source.is_divided:
            continue
        if partitions == 1 or partition_of(source.customer or source.topic, partitions) == partition:
            mine |= {source.customer} if source.customer is not None else listed
    return mine.pop() if len(mine) == 1 else None


def filters(
    sources: Sequence[Source], customers: Sequence[str], *, partition: int, partitions: int
) -> list[str]:
    """What a partition subscribes. One partition takes every customer, so that unknown ones are seen and
    refused; several divide the listed ones, and a source whose customer is no level of its topic belongs to
    one.
    """
    if partitions == 1:
        return list(dict.fromkeys(source.filter(None) for source in sources))
    mine = [customer for customer in customers if partition_of(customer, partitions) == partition]
    divided = [source.filter(customer) for customer in mine for source in sources if source.is_divided]
    whole = [
        source.filter(None)
        for source in sources
        if not source.is_divided and partition_of(source.customer or source.topic, partitions) == partition
    ]
    return list(dict.fromkeys(divided + whole))
