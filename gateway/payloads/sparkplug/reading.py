"""A payload to named values by their times, as far as what births define is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.model.errors import DecodeError
from gateway.payloads.fields import Skipped
from gateway.payloads.formats.values import MAX_DEPTH, MAX_NAME_LENGTH, Reason
from gateway.payloads.sparkplug import values, wire
from gateway.payloads.sparkplug.definitions import Definitions

BD_SEQ = "bdSeq"
_CONTROL = ("Node Control/", "Device Control/")
GOOD = 192
"""`Quality` of a value that can be trusted."""


@dataclass(slots=True)
class ReadPayload:
    """Of one payload. `samples`: values by their time in milliseconds, None where neither the metric nor the
    payload has one. `unknown`: what only a birth could name, or tell the datatype of.
    """

    samples: dict[int | None, dict[str, object]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def skip(self, name: str, error: DecodeError) -> None:
        """Leaves a field out."""
        detail = f"metric {name[:80]!r}: {error.detail}"
        self.skipped.append(Skipped(name=name[:MAX_NAME_LENGTH], reason=Reason(error.reason), detail=detail))


NOTHING = Definitions(())


def read(payload: wire.Payload, known: Definitions | None) -> ReadPayload:
    """What can be told. `known`: what the birth defined; None where that is not certain, and then only what
    the payload itself names, with a value that needs no datatype, is taken.
    """
    found = ReadPayload()
    sent = payload.timestamp or None
    for metric in payload.metrics:
        try:
            _take(metric, sent, known or NOTHING, found)
        except DecodeError as error:
            found.skip(_shown(metric), error)
    return found


def bd_seq(payload: wire.Payload) -> int | None:
    """The number by which a death belongs to a birth."""
    for metric in payload.metrics:
        if metric.name == BD_SEQ:
            kind = metric.WhichOneof("value")
            if kind in ("int_value", "long_value"):
                return (metric.int_value or metric.long_value) % (1 << 63)
    return None


def _shown(metric: wire.Metric) -> str:
    return metric.name if isinstance(metric.name, str) and metric.name else f"alias {metric.alias}"


def _take(metric: wire.Metric, sent: int | None, known: Definitions, found: ReadPayload) -> None:
    name, declared = _identity(metric, known)
    if name is None:
        found.unknown.append(f"alias {metric.alias}" if metric.HasField("alias") else "a metric without name")
        return
    if name == BD_SEQ or name.startswith(_CONTROL):
        return
    _check(metric)
    at = metric.timestamp or sent
    if metric.is_historical and not metric.timestamp:
        raise DecodeError(Reason.MISSING_TIME, "is historical and has no time of its own")
    datatype = _type(metric, declared)
    if datatype is None:
        found.unknown.append(name)
        return
    value = _value(metric, datatype, name, known, found, 0)
    sample = found.samples.setdefault(at, {})
    if name in sample and not (sample[name] == value and type(sample[name]) is type(value)):
        raise DecodeError(Reason.SAME_NAME, "comes twice for one instant; the first is taken")
    sample[name] = value


def _identity(metric: wire.Metric, known: Definitions) -> tuple[str | None, int | None]:
    """Name and datatype; the name that stands there counts, and the datatype."""
    name = values.text(metric.name)
    if not name:
        if not metric.HasField("alias") or metric.alias not in known.by_alias:
            return None, None
        name, datatype = known.by_alias[metric.alias]
    else:
        datatype = known.by_name.get(name, 0)
    return name, metric.datatype or datatype or None


def _type(metric: wire.Metric, declared: int | None) -> int | None:
    kind = metric.WhichOneof("value")
    if kind is None:
        raise DecodeError(Reason.EMPTY, "has no value")
    if kind == "dataset_value":
        return values.DATASET
    if kind == "template_value":
        return values.TEMPLATE
    return values.type_of(metric, declared)


def _value(
    metric: wire.Metric, datatype: int, name: str, known: Definitions, found: ReadPayload, depth: int
) -> object:
    kind = metric.WhichOneof("value")
    if datatype == values.TEMPLATE and kind == "template_value":
        return _members(metric.template_value, name, known, found, depth)
    if datatype == values.DATASET and kind == "dataset_value":
        return values.data_set(
            metric.dataset_value, lambda cell, error: found.skip(f"{name}.{cell}".rstrip("."), error)
        )
    if datatype in values.ARRAYS or datatype in (values.BOOLEANS, values.STRINGS):
        if kind != "bytes_value":
            raise DecodeError(Reason.WRONG_SHAPE, f"a {values.NAMES[datatype]} stands in {kind}")
        return values.array(metric.bytes_value, datatype)
    if kind == "bytes_value":
        raise DecodeError(
            Reason.WRONG_SHAPE, f"is {len(metric.bytes_value)} bytes, which are neither number nor text"
        )
    return values.scalar(metric, datatype)


def _members(
    template: wire.Template, name: str, known: Definitions, found: ReadPayload, depth: int
) -> Mapping[str, object]:
    """A structure becomes an object, whose metrics are named with dots. A definition has no values."""
    if template.is_definition:
        return {}
    if depth >= MAX_DEPTH:
        raise DecodeError(Reason.NESTED_TOO_DEEP, f"templates nested deeper than {MAX_DEPTH}")
    members: dict[str, object] = {}
    for metric in template.metrics:
        own = f"{name}.{_shown(metric)}"
        try:
            member = values.text(metric.name)
            if not member:
                found.unknown.append(own)
            elif member in members:
                found.skip(own, DecodeError(Reason.SAME_NAME, "comes twice; the first is taken"))
            else:
                _check(metric)
                datatype = _type(metric, metric.datatype or known.by_name.get(own) or None)
                if datatype is None:
                    found.unknown.append(own)
                else:
                    members[member] = _value(metric, datatype, own, known, found, depth + 1)
        except DecodeError as error:
            found.skip(own, error)
    return members


def _check(metric: wire.Metric) -> None:
    """Raises DecodeError for a value that is none, or is not to be kept."""
    if metric.is_transient:
        raise DecodeError(Reason.TRANSIENT, "is transient, which is not to be kept")
    if metric.is_null:
        raise DecodeError(Reason.NULL, "is null")
    if metric.HasField("properties"):
        _check_quality(metric.properties)


def _check_quality(properties: wire.PropertySet) -> None:
    """Raises DecodeError for a value that its node calls bad or stale."""
    for key, held in zip(properties.keys, properties.values, strict=False):
        if key == "Quality" and held.WhichOneof("value") in ("int_value", "long_value"):
            quality = held.int_value or held.long_value
            if quality != GOOD:
                raise DecodeError(Reason.BAD_QUALITY, f"has the quality {quality}; {GOOD} is good")
