"""The protobuf payload. Its messages are declared here by the numbers of the specification, those fields only
that are read; what else a payload has is skipped by the parser.

Source: Sparkplug 3.0, 6.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, cast

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError as ProtobufError
from google.protobuf.message_factory import GetMessageClass

from gateway.model.errors import DecodeError
from gateway.payloads import document
from gateway.payloads.document import Encoding, decompress
from gateway.payloads.formats.values import MAX_PAYLOAD_BYTES, Reason

MAX_METRICS = 20_000
"""Of one payload."""

COMPRESSED = "SPBV1.0_COMPRESSED"
"""The `uuid` of a payload whose body is another one, packed. Source: the clients of Eclipse Tahu."""

REBIRTH = "Node Control/Rebirth"
BOOLEAN = 11

Kind = Literal[
    "int_value",
    "long_value",
    "float_value",
    "double_value",
    "boolean_value",
    "string_value",
    "bytes_value",
    "dataset_value",
    "template_value",
]


class Value(Protocol):
    """What holds one of several values: a metric, an element of a data set, a property."""

    int_value: int
    long_value: int
    float_value: float
    double_value: float
    boolean_value: bool
    string_value: str

    def WhichOneof(self, name: str) -> Kind | None:  # noqa: N802
        """Which of them is set."""
        ...

    def HasField(self, name: str) -> bool:  # noqa: N802
        """Whether an optional field is there."""
        ...


class PropertyValue(Value, Protocol):
    """A property of a metric."""

    is_null: bool


class PropertySet(Protocol):
    """Names and values, in two lists."""

    keys: Sequence[str]
    values: Sequence[PropertyValue]


class Row(Protocol):
    """A row of a data set."""

    elements: Sequence[Value]


class DataSet(Protocol):
    """A table: `types` of its columns."""

    columns: Sequence[str]
    types: Sequence[int]
    rows: Sequence[Row]


class Template(Protocol):
    """A structure of metrics, or its definition."""

    metrics: Sequence[Metric]
    is_definition: bool
    template_ref: str


class Metric(Value, Protocol):
    """One metric. Times in milliseconds since the epoch."""

    name: str
    alias: int
    timestamp: int
    datatype: int
    is_historical: bool
    is_transient: bool
    is_null: bool
    bytes_value: bytes
    dataset_value: DataSet
    template_value: Template
    properties: PropertySet


class Payload(Protocol):
    """One message."""

    timestamp: int
    metrics: Sequence[Metric]
    seq: int
    uuid: str
    body: bytes

    def HasField(self, name: str) -> bool:  # noqa: N802
        """Whether an optional field is there."""
        ...


_TYPES = {
    "uint32": FieldDescriptorProto.TYPE_UINT32,
    "uint64": FieldDescriptorProto.TYPE_UINT64,
    "float": FieldDescriptorProto.TYPE_FLOAT,
    "double": FieldDescriptorProto.TYPE_DOUBLE,
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "string": FieldDescriptorProto.TYPE_STRING,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
}
_SCALARS = (
    "int_value uint32",
    "long_value uint64",
    "float_value float",
    "double_value double",
    "boolean_value bool",
    "string_value string",
)

_MESSAGES: dict[str, dict[int, str]] = {
    "Payload": {
        1: "timestamp uint64",
        2: "metrics Metric*",
        3: "seq uint64",
        4: "uuid string",
        5: "body bytes",
    },
    "Metric": {
        1: "name string",
        2: "alias uint64",
        3: "timestamp uint64",
        4: "datatype uint32",
        5: "is_historical bool",
        6: "is_transient bool",
        7: "is_null bool",
        9: "properties PropertySet",
        **{10 + place: f"|{field}" for place, field in enumerate(_SCALARS)},
        16: "|bytes_value bytes",
        17: "|dataset_value DataSet",
        18: "|template_value Template",
    },
    "PropertySet": {1: "keys string*", 2: "values PropertyValue*"},
    "PropertyValue": {
        1: "type uint32",
        2: "is_null bool",
        **{3 + place: f"|{field}" for place, field in enumerate(_SCALARS)},
    },
    "DataSet": {2: "columns string*", 3: "types uint32*", 4: "rows Row*"},
    "Row": {1: "elements Element*"},
    "Element": {1 + place: f"|{field}" for place, field in enumerate(_SCALARS)},
    "Template": {2: "metrics Metric*", 4: "template_ref string", 5: "is_definition bool"},
}
"""Fields by number: name and type, `*` behind a repeated one, `|` before one of a choice."""


def _declare(name: str, fields: dict[int, str]) -> DescriptorProto:
    message = DescriptorProto(name=name)
    if any(text.startswith("|") for text in fields.values()):
        message.oneof_decl.add(name="value")
    for number, text in fields.items():
        label, kind = text.removeprefix("|").split()
        plain = kind.removesuffix("*")
        field = message.field.add(name=label, number=number)
        field.label = (
            FieldDescriptorProto.LABEL_REPEATED if kind.endswith("*") else FieldDescriptorProto.LABEL_OPTIONAL
        )
        if plain in _TYPES:
            field.type = _TYPES[plain]
        else:
            field.type = FieldDescriptorProto.TYPE_MESSAGE
            field.type_name = f".sparkplug.{plain}"
        if text.startswith("|"):
            field.oneof_index = 0
    return message


def _pool() -> DescriptorPool:
    file = FileDescriptorProto(name="sparkplug.proto", package="sparkplug", syntax="proto2")
    file.message_type.extend(_declare(name, fields) for name, fields in _MESSAGES.items())
    pool = DescriptorPool()
    pool.Add(file)
    return pool


PAYLOAD = GetMessageClass(_pool().FindMessageTypeByName("sparkplug.Payload"))


def parse(payload: bytes) -> Payload:
    """The message, unpacked where its body is another one. Raises DecodeError."""
    found = _parse(payload)
    try:
        is_packed = found.uuid == COMPRESSED
    except UnicodeDecodeError:
        is_packed = False
    if is_packed and found.body:
        found = _parse(decompress(found.body, _encoding(found)))
    if len(found.metrics) > MAX_METRICS:
        raise DecodeError(
            Reason.TOO_MANY_METRICS, f"{len(found.metrics)} metrics; at most {MAX_METRICS} are taken"
        )
    return found


def unpacked_bytes(payload: bytes) -> int:
    """How long the message is, or the one in it. Raises nothing."""
    if COMPRESSED.encode() not in payload:
        return len(payload)
    try:
        found = _parse(payload)
        return document.unpacked_bytes(found.body, _encoding(found)) if found.body else len(payload)
    except DecodeError:
        return len(payload)


def _parse(payload: bytes) -> Payload:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise DecodeError(
            Reason.PAYLOAD_TOO_LARGE, f"{len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are taken"
        )
    try:
        return cast(Payload, PAYLOAD.FromString(payload))
    except (ProtobufError, ValueError) as error:
        raise DecodeError(
            Reason.WRONG_SHAPE, f"the payload is no Sparkplug B message: {error}"[:200]
        ) from None


def _encoding(packed: Payload) -> Encoding:
    """zlib or gzip, which tell themselves apart; what is named otherwise is refused."""
    try:
        named = [metric.string_value for metric in packed.metrics if metric.name == "algorithm"]
    except UnicodeDecodeError:
        named = ["?"]
    if named and named[0].upper() not in ("DEFLATE", "GZIP"):
        raise DecodeError(Reason.WRONG_ENCODING, f"the body is packed by {named[0][:40]!r}: use GZIP")
    return "deflate"


def rebirth(at: int) -> bytes:
    """The payload of an NCMD that asks an edge node for its births. `at`: milliseconds since the epoch."""
    message = PAYLOAD()
    message.timestamp = at  # type: ignore[attr-defined]
    message.metrics.add(  # type: ignore[attr-defined]
        name=REBIRTH, timestamp=at, datatype=BOOLEAN, boolean_value=True
    )
    return message.SerializeToString()
