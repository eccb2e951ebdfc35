"""A source for messages that nobody knows: which of them are of one shape, and what their topics and payloads
say of the source that would take them.

A topic tells by what varies in it: a level that is equal in all messages of a group is a literal, of the
others the one with the most names is the device. A payload tells by its fields: where its time is, and
whether an inner object holds all the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from gateway.ingest.explain import TIME_NAMES
from gateway.model.errors import DecodeError
from gateway.payloads.document import load, looks_like
from gateway.payloads.formats.values import parse_time


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardMessage:
    """A message as it was heard."""

    topic: str
    payload: bytes
    is_retained: bool = False


@dataclass(slots=True, kw_only=True)
class MessageGroup:
    """Messages of one shape. `source`: the lines of a source that takes them, None where nothing can be said.
    `problem`: why they are dead letters now, where a source has their topics.
    """

    title: str
    messages: int = 0
    topics: set[str] = field(default_factory=set)
    source: dict[str, object] | None = None
    problem: str | None = None

    def add(self, topic: str) -> None:
        """Counts a message."""
        self.messages += 1
        self.topics.add(topic)


def alike(messages: Sequence[HeardMessage]) -> list[list[HeardMessage]]:
    """Messages whose topics have as many levels and the same first one, and whose payloads have the same
    fields.
    """
    groups: dict[tuple[int, str, object], list[HeardMessage]] = defaultdict(list)
    for message in messages:
        first = message.topic.split("/")[0] if "/" in message.topic else ""
        groups[message.topic.count("/"), first, _shape_of(message.payload)].append(message)
    return list(groups.values())


def _shape_of(payload: bytes) -> object:
    """What tells payloads apart: the fields of an object, or the kind."""
    document = _document(payload)
    if isinstance(document, Mapping):
        return ("object", tuple(sorted(map(str, document))[:20]))
    if isinstance(document, list):
        return ("list", _shape_of_item(document))
    return type(document).__name__ if not isinstance(document, int | float) else "number"


def _shape_of_item(items: Sequence[object]) -> object:
    first = items[0] if items else None
    return tuple(sorted(map(str, first))[:20]) if isinstance(first, Mapping) else type(first).__name__


def _document(payload: bytes) -> object:
    for kind in ("json", "scalar"):
        try:
            return load(payload, kind, None)
        except DecodeError:
            continue
    return looks_like(payload) or "bytes"


def propose(messages: Sequence[HeardMessage], customer: str) -> MessageGroup:
    """A group with a source that takes it, as well as can be told from the topics and one payload."""
    topics = sorted({message.topic for message in messages})
    document = _document(messages[0].payload)
    is_scalar = not isinstance(document, Mapping | list)
    template, needed = _template(topics, is_scalar=is_scalar)
    lines: dict[str, object] = {"topic": template}
    if is_scalar:
        lines["format"] = "scalar"
    lines |= {"customer": customer, **needed}
    if isinstance(document, Mapping):
        lines |= _places(document)
    usable = messages[0].payload and not (is_scalar and looks_like(messages[0].payload))
    group = MessageGroup(title=template, source=lines if usable else None)
    if not usable:
        group.problem = f"looks like {looks_like(messages[0].payload) or 'nothing'}"
    for message in messages:
        group.add(message.topic)
    return group


def _template(topics: Sequence[str], *, is_scalar: bool) -> tuple[str, dict[str, object]]:
    """Levels that are equal in all topics are literals; of the others the one with the most names is the
    device, and the last of a scalar its metric.
    """
    columns = list(zip(*(topic.split("/") for topic in topics), strict=True))
    names = [len(set(column)) for column in columns]
    levels = [
        column[0] if count == 1 and not set(column[0]) & set("{}+#") else "{_}"
        for column, count in zip(columns, names, strict=True)
    ]
    needed: dict[str, object] = {}
    last = len(levels) - 1
    if is_scalar:
        levels[last], names[last] = "{metric}", 0
    free = [place for place in range(len(levels)) if names[place] > 1]
    if free:
        levels[max(free, key=lambda place: names[place])] = "{device}"
    elif is_scalar and last > 0:
        levels[last - 1] = "{device}"
    else:
        needed["device"] = topics[0].rpartition("/")[2] or topics[0]
    return "/".join(levels), needed


def _places(document: Mapping[str, object]) -> dict[str, object]:
    """Where the time is, and an inner object that holds all the rest."""
    found: dict[str, object] = {}
    others = []
    for name, value in document.items():
        if name.lower() in TIME_NAMES and "time" not in found and _is_time(value):
            if name != "ts":
                found["time"] = {"path": name}
        elif name.lower() in TIME_NAMES and "time" not in found and _is_local_time(value):
            found["time"] = {"path": name, "zone": "ZONE"}
        else:
            others.append((name, value))
    objects = [name for name, value in others if isinstance(value, Mapping)]
    inner = document[objects[0]] if len(objects) == 1 and len(others) == 1 else None
    time = found.get("time")
    if isinstance(inner, Mapping) and (objects[0] != "metrics" or time is not None):
        if isinstance(time, dict) and time["path"] in inner:
            return {}  # of two times of one name only a person knows which
        found["root"] = objects[0]
    return found


def _is_local_time(value: object) -> bool:
    """A date and time without a zone."""
    try:
        return (
            isinstance(value, str) and datetime.fromisoformat(value.strip()).tzinfo is None and ":" in value
        )
    except ValueError:
        return False


def _is_time(value: object) -> bool:
    try:
        return parse_time(int(value) if isinstance(value, str) and value.isdigit() else value) > 10**15
    except DecodeError:
        return False
