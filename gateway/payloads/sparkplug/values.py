"""Values by their datatypes: what a metric says becomes what a document of JSON would hold, so that one set
of rules decides what is stored. What has no place there is refused, and never changed in silence.

Source: Sparkplug 3.0, 6.4.16.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import cast

from gateway.model.errors import DecodeError
from gateway.payloads.fields import MAX_ARRAY
from gateway.payloads.formats.values import Reason
from gateway.payloads.sparkplug import wire

MAX_ROWS = 64
"""Rows of a data set that become metrics of their own."""

MAX_ITEMS = MAX_ARRAY + 1
"""Items of an array that are looked at: no more of them can become metrics, and one tells that there are."""

SIGNED = {1: 8, 2: 16, 3: 32, 4: 64}
UNSIGNED = {5: 8, 6: 16, 7: 32, 8: 64, 13: 64}
FLOAT, DOUBLE, BOOLEAN = 9, 10, 11
TEXTS = frozenset({12, 14, 15})
DATASET, BYTES, FILE, TEMPLATE = 16, 17, 18, 19
ARRAYS: Mapping[int, str] = {
    22: "b",
    23: "h",
    24: "i",
    25: "q",
    26: "B",
    27: "H",
    28: "I",
    29: "Q",
    30: "f",
    31: "d",
    34: "Q",
}
BOOLEANS, STRINGS = 32, 33
_PLAIN = (
    "Int8",
    "Int16",
    "Int32",
    "Int64",
    "UInt8",
    "UInt16",
    "UInt32",
    "UInt64",
    "Float",
    "Double",
    "Boolean",
    "String",
    "DateTime",
)
NAMES: Mapping[int, str] = dict(
    enumerate(
        (
            "Unknown",
            *_PLAIN,
            "Text",
            "UUID",
            "DataSet",
            "Bytes",
            "File",
            "Template",
            "PropertySet",
            "PropertySetList",
            *(f"{name}Array" for name in _PLAIN),
        )
    )
)

SELF_EVIDENT: Mapping[wire.Kind, int] = {
    "float_value": FLOAT,
    "double_value": DOUBLE,
    "boolean_value": BOOLEAN,
    "string_value": 12,
}
"""What a value is where nobody said its datatype. An integer may be a negative one in disguise, so it is not
here.
"""


def type_of(value: wire.Value, declared: int | None) -> int | None:
    """The datatype of a value; None where it takes a birth to know it."""
    if declared:
        return declared
    kind = value.WhichOneof("value")
    return None if kind is None else SELF_EVIDENT.get(kind)


def scalar(value: wire.Value, datatype: int) -> object:
    """A number, a boolean or a text. Raises DecodeError."""
    kind = value.WhichOneof("value")
    if datatype in SIGNED or datatype in UNSIGNED:
        if kind == "int_value":
            return _integer(value.int_value, 32, datatype)
        if kind == "long_value":
            return _integer(value.long_value, 64, datatype)
    elif datatype == FLOAT and kind == "float_value":
        return value.float_value
    elif datatype in (FLOAT, DOUBLE) and kind == "double_value":
        return value.double_value
    elif datatype == DOUBLE and kind == "float_value":
        return value.float_value
    elif datatype == BOOLEAN and kind == "boolean_value":
        return value.boolean_value
    elif datatype in TEXTS and kind == "string_value":
        return text(value.string_value)
    named = NAMES.get(datatype, f"datatype {datatype}")
    raise DecodeError(Reason.WRONG_SHAPE, f"a {named} stands in {kind or 'no value'}")


def _integer(sent: int, bits: int, datatype: int) -> int:
    """A negative number comes as its two's complement, of the field or of its own size. Raises DecodeError
    for what is out of its range.
    """
    if (size := SIGNED.get(datatype)) is None:
        size = UNSIGNED[datatype]
        if sent < 1 << size:
            return sent
    else:
        half = 1 << size - 1
        if sent < half:
            return sent
        if sent >= (1 << bits) - half:
            return sent - (1 << bits)
        if sent < 1 << size:
            return sent - (1 << size)
    raise DecodeError(Reason.WRONG_SHAPE, f"{sent} is no {NAMES[datatype]}")


def text(value: object) -> str:
    """Raises DecodeError for bytes that are no UTF-8, which the parser hands over as they are."""
    if not isinstance(value, str):
        raise DecodeError(Reason.NOT_UTF8, f"the text {cast(bytes, value)[:40]!r} is no UTF-8")
    return value


def array(packed: bytes, datatype: int) -> list[object]:
    """The items of an array. Raises DecodeError."""
    if datatype == BOOLEANS:
        return list(_booleans(packed))
    if datatype == STRINGS:
        if packed and packed[-1]:
            raise DecodeError(Reason.WRONG_SHAPE, "an array of texts does not end with a NUL")
        try:
            return list(packed[:-1].decode("utf-8").split("\0", MAX_ITEMS)) if packed else []
        except UnicodeDecodeError:
            raise DecodeError(Reason.NOT_UTF8, "an array of texts is not UTF-8") from None
    code = ARRAYS[datatype]
    size = struct.calcsize(f"<{code}")
    if len(packed) % size:
        raise DecodeError(
            Reason.WRONG_SHAPE, f"{len(packed)} bytes are no {NAMES[datatype]}, whose items have {size} each"
        )
    return list(struct.unpack(f"<{min(len(packed) // size, MAX_ITEMS)}{code}", packed[: MAX_ITEMS * size]))


def _booleans(packed: bytes) -> list[bool]:
    count = int.from_bytes(packed[:4], "little")
    if len(packed) < 4 or len(packed) - 4 < -(-count // 8):
        raise DecodeError(Reason.WRONG_SHAPE, f"a BooleanArray of {count} items has {len(packed)} bytes")
    return [
        bool(packed[4 + place // 8] & (0x80 >> place % 8)) for place in range(min(count, MAX_ITEMS))
    ]  # the first item is the highest bit


def data_set(table: wire.DataSet, refuse: Callable[[str, DecodeError], None]) -> dict[str, object]:
    """Columns by name, below the number of their row. Raises DecodeError for a table that cannot be read."""
    if len(table.columns) != len(table.types):
        raise DecodeError(
            Reason.WRONG_SHAPE,
            f"a DataSet has {len(table.columns)} columns and {len(table.types)} types of them",
        )
    rows: list[dict[str, object]] = []
    for place, row in enumerate(table.rows[:MAX_ROWS]):
        if len(row.elements) != len(table.columns):
            raise DecodeError(
                Reason.WRONG_SHAPE,
                f"row {place} of a DataSet has {len(row.elements)} values for {len(table.columns)} columns",
            )
        cells: dict[str, object] = {}
        for column, datatype, element in zip(table.columns, table.types, row.elements, strict=True):
            if column in cells:
                refuse(f"{place}.{column}", DecodeError(Reason.SAME_NAME, "comes twice; the first is taken"))
                continue
            if element.WhichOneof("value") is None:
                cells[text(column)] = None
                continue
            try:
                cells[text(column)] = scalar(element, datatype)
            except DecodeError as error:
                refuse(f"{place}.{column}", error)
        rows.append(cells)
    if len(table.rows) > MAX_ROWS:
        refuse("", DecodeError(Reason.ARRAY, f"only the first {MAX_ROWS} rows of a DataSet are taken"))
    return {str(place): cells for place, cells in enumerate(rows)}
