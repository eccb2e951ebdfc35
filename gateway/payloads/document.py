"""Bytes to a document, in each format and encoding; both bounded before anything is built from them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from decimal import Decimal
from functools import lru_cache
from io import BytesIO
from typing import Literal

import cbor2
import msgpack
import zstandard

from gateway.model.errors import DecodeError
from gateway.payloads.formats import json, scalar
from gateway.payloads.formats.values import MAX_DEPTH, MAX_PAYLOAD_BYTES, Reason, Unfit, as_number

Encoding = Literal["gzip", "deflate", "zstd"]

_PADDING = b" \t\r\n\0"
_BOM = b"\xef\xbb\xbf"
_WINDOW_BITS = {"gzip": 31, "deflate": 47}
_MAX_NODES = 100_000
_MAX_PARTS = 200
"""Members of gzip, frames of zstd, of one payload: an empty one takes as long to read as a short one."""


def load(payload: bytes, format: str, encoding: Encoding | None) -> object:
    """The document of a message. Raises DecodeError."""
    return _LOADERS[format](payload if encoding is None else decompress(payload, encoding))


@lru_cache(maxsize=1)  # a message is read, and then weighed
def decompress(payload: bytes, encoding: Encoding) -> bytes:
    """All parts that it was packed in, at most `MAX_PAYLOAD_BYTES`, whatever the ratio is. Raises
    DecodeError.
    """
    plain, rest, parts = b"", payload, 0
    while rest or not parts:
        parts += 1
        if parts > _MAX_PARTS:
            raise DecodeError(
                Reason.WRONG_ENCODING, f"the payload has more than {_MAX_PARTS} parts of {encoding}"
            )
        room = MAX_PAYLOAD_BYTES + 1 - len(plain)
        try:
            part, rest = _unframed(rest, room) if encoding == "zstd" else _inflated(rest, encoding, room)
        except (zlib.error, zstandard.ZstdError) as error:
            where = "is no" if parts == 1 else "goes on with what is no"
            raise DecodeError(Reason.WRONG_ENCODING, f"the payload {where} {encoding}: {error}") from None
        plain += part
        if len(plain) > MAX_PAYLOAD_BYTES:
            raise DecodeError(
                Reason.PAYLOAD_TOO_LARGE, f"more than {MAX_PAYLOAD_BYTES} bytes when it is unpacked"
            )
    return plain


def _inflated(payload: bytes, encoding: Encoding, room: int) -> tuple[bytes, bytes]:
    """The first part unpacked, as far as there is room, and what follows it. Raises zlib.error."""
    inflate = zlib.decompressobj(_WINDOW_BITS[encoding])
    plain = inflate.decompress(payload, room)
    if not inflate.eof and len(plain) < room:
        raise _cut(encoding)
    return plain, inflate.unused_data.lstrip(_PADDING)


def _unframed(payload: bytes, room: int) -> tuple[bytes, bytes]:
    """As `_inflated`, of a frame of zstd. The library stops at its end, and reads a cut one as a whole one.
    Raises ZstdError.
    """
    end = _frame_end(payload)
    if end > len(payload):
        raise _cut("zstd")
    reader = zstandard.ZstdDecompressor(max_window_size=8 << 20).stream_reader(BytesIO(payload[:end]))
    return reader.read(room), payload[end:].lstrip(_PADDING)


def _frame_end(payload: bytes) -> int:
    """Where the first frame ends, beyond the payload where that is cut. Raises ZstdError.

    Source: RFC 8878, 3.1.
    """
    if payload[1:4] == b"\x2a\x4d\x18" and payload[0] & 0xF0 == 0x50:  # to be skipped
        return 8 + int.from_bytes(payload[4:8], "little")
    end = zstandard.frame_header_size(payload)
    has_checksum = zstandard.get_frame_parameters(payload).has_checksum
    blocks = held = 0
    while end + 3 <= len(payload):
        block = int.from_bytes(payload[end : end + 3], "little")
        size = block >> 3
        end += 3 + (1 if block >> 1 & 3 == 1 else size)  # one byte stands for a run of it
        blocks, held = blocks + 1, held + size
        if block & 1:
            return end + 4 * has_checksum
        if held > MAX_PAYLOAD_BYTES:
            return end  # too large, whatever follows
        if blocks > 100 + held // 16:  # each of them is looked at, however little is in it
            raise DecodeError(Reason.WRONG_ENCODING, "the payload has blocks of zstd with nothing in them")
    return len(payload) + 1


def _cut(encoding: Encoding) -> DecodeError:
    return DecodeError(Reason.WRONG_ENCODING, f"the payload ends within its {encoding}")


def unpacked_bytes(payload: bytes, encoding: Encoding) -> int:
    """How long it is when it is unpacked, as far as it may be."""
    try:
        return len(decompress(payload, encoding))
    except DecodeError as error:
        return MAX_PAYLOAD_BYTES if error.reason == Reason.PAYLOAD_TOO_LARGE else len(payload)


def stripped(payload: bytes) -> bytes:
    """Without a byte order mark, and without the NULs and white space that programs in C leave at the end."""
    return payload.removeprefix(_BOM).strip(_PADDING)


def _json(payload: bytes) -> object:
    """What is around the document is taken away, and a number in it that is none leaves the rest."""
    try:
        return json.load(payload)
    except DecodeError as error:
        if error.reason not in (Reason.INVALID_JSON, Reason.NOT_FINITE):
            raise
        why = error
    plain = stripped(payload)
    with suppress(DecodeError):
        if plain != payload and plain:
            return json.load(plain)
    if why.reason == Reason.NOT_FINITE:
        with suppress(ValueError, RecursionError):
            return json.load_words(plain)
    if (looks := looks_like(payload)) is not None:
        raise DecodeError(Reason.INVALID_JSON, f"the payload looks like {looks}") from None
    raise why


def _scalar(payload: bytes) -> object:
    """A number, a boolean, a text."""
    measured = scalar.parse(stripped(payload), "value")
    return measured[0][1]["value"]


def _cbor(payload: bytes) -> object:
    stream = BytesIO(payload)
    try:
        document = cbor2.CBORDecoder(
            stream, max_depth=4 * MAX_DEPTH, semantic_decoders=_MEANINGS, allow_duplicate_keys=False
        ).decode()
    except (
        cbor2.CBORDecodeError,
        ValueError,
        OverflowError,
        MemoryError,
        RecursionError,
        TypeError,
    ) as error:
        reason = Reason.SAME_NAME if "uplicate" in str(error) else Reason.WRONG_SHAPE
        raise DecodeError(reason, f"the payload is no CBOR: {error}"[:200]) from None
    if stream.tell() != len(payload):
        raise DecodeError(Reason.WRONG_SHAPE, "the payload has bytes behind its CBOR")
    return _plain(document, _Budget())


def _msgpack(payload: bytes) -> object:
    try:
        document = msgpack.unpackb(payload, timestamp=3, strict_map_key=False, object_pairs_hook=_named)
    except (ValueError, OverflowError, MemoryError, RecursionError, TypeError) as error:
        raise DecodeError(Reason.WRONG_SHAPE, f"the payload is no MessagePack: {error}"[:200]) from None
    return _plain(document, _Budget())


class Tagged:
    """Stands for a value of CBOR that no metric can be."""

    def __init__(self, _value: object, _is_immutable: bool) -> None:
        pass


def _bignum(value: object, sign: int) -> int | Unfit:
    """An integer of any length. One that no double holds is not made: made into digits it takes time by the
    square of its length, and those of one hash, as keys of one map, by the square of their number.
    """
    if not isinstance(value, bytes):
        raise TypeError("a bignum that is no byte string")
    if len(value) > 8:
        return Unfit(reason=Reason.NOT_EXACT, text=f"{'' if sign > 0 else '-'}0x{value.hex()}")
    magnitude = int.from_bytes(value)
    return magnitude if sign > 0 else -1 - magnitude


def _positive(value: object, _is_immutable: bool) -> int | Unfit:
    return _bignum(value, 1)


def _negative(value: object, _is_immutable: bool) -> int | Unfit:
    return _bignum(value, -1)


def _decimal(value: object, _is_immutable: bool) -> Decimal | Unfit:
    exponent, mantissa = _scaled(value)
    if isinstance(mantissa, Unfit):
        return mantissa
    return Decimal(mantissa).scaleb(exponent) if abs(exponent) < _MAX_EXPONENT else Decimal("inf")


def _bigfloat(value: object, _is_immutable: bool) -> float | Unfit:
    exponent, mantissa = _scaled(value)
    if isinstance(mantissa, Unfit):
        return mantissa
    with suppress(OverflowError):
        number = math.ldexp(mantissa, exponent)
        is_exact = math.ldexp(number, -exponent) == mantissa
        return number if is_exact else Unfit(reason=Reason.NOT_EXACT, text=f"{mantissa} * 2^{exponent}")
    return Unfit(reason=Reason.NOT_FINITE, text=f"{mantissa} * 2^{exponent}")


def _scaled(value: object) -> tuple[int, int | Unfit]:
    """Exponent and mantissa."""
    if isinstance(value, list | tuple) and len(value) == 2:
        exponent, mantissa = value
        if type(exponent) is int and (type(mantissa) is int or isinstance(mantissa, Unfit)):
            return exponent, mantissa
    raise ValueError("a fraction that is no pair of integers")


_MAX_EXPONENT = 5000
_MEANINGS: Mapping[int, Callable[[object, bool], object]] = {
    2: _positive,
    3: _negative,
    4: _decimal,
    5: _bigfloat,
    # rational numbers, regular expressions, mail, UUIDs, addresses, complex numbers: what it would take to
    # make one of them is up to who sent it, and a metric is none
    **dict.fromkeys((30, 35, 36, 37, 52, 54, 260, 261, 43000), Tagged),
}
"""What tags of CBOR mean here, where that is not what the library makes of them."""


class _Budget:
    """How much of a document may be looked at: CBOR can share a part a million times."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = _MAX_NODES

    def take(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise DecodeError(Reason.WRONG_SHAPE, f"the payload has more than {_MAX_NODES} values")


def _plain(value: object, budget: _Budget, depth: int = 0) -> object:
    """With texts for keys, and of the types that JSON has, and datetimes."""
    budget.take()
    if depth > 4 * MAX_DEPTH:
        raise DecodeError(Reason.NESTED_TOO_DEEP, f"nested deeper than {4 * MAX_DEPTH}")
    match value:
        case Mapping():
            return _named((key, _plain(item, budget, depth + 1)) for key, item in value.items())
        case list() | tuple() | set() | frozenset():
            return [_plain(item, budget, depth + 1) for item in value]
        case bytes():
            return value.decode("utf-8", "replace")
        case Decimal():
            return as_number(str(value)) if value.is_finite() else float(value)
        case cbor2.CBORSimpleValue() | cbor2.CBORTag():
            return str(value)
        case _:
            return None if value is cbor2.undefined else value


def _named(pairs: Iterable[tuple[object, object]]) -> dict[str, object]:
    """An object with texts for keys. Raises DecodeError where two of them are the same, 1 and "1" as well:
    either value would be lost.
    """
    found: dict[str, object] = {}
    for key, value in pairs:
        name = _key(key)
        if name in found:
            raise DecodeError(
                Reason.SAME_NAME, f"the key {name[:40]!r} comes twice in one object: send it once"
            )
        found[name] = value
    return found


def _key(key: object) -> str:
    match key:
        case str():
            return key
        case Unfit():
            return key.text
        case None | bool() | int() | float() | Decimal():
            return str(key)
        case bytes():
            with suppress(UnicodeDecodeError):
                return key.decode()
        case _:
            pass
    raise DecodeError(Reason.WRONG_SHAPE, f"a key is a {type(key).__name__}: send a text or a number")


def looks_like(payload: bytes) -> str | None:
    """What bytes that are no JSON probably are, with what to set; None where nobody can tell."""
    head = payload[:4]
    if head[:2] == b"\x1f\x8b":
        return "gzip: set `encoding: gzip` of the source"
    if head == b"\x28\xb5\x2f\xfd":
        return "zstd: set `encoding: zstd` of the source"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in payload[:8:2] or b"\0" in payload[1:8:2]:
        return "UTF-16: have the device send UTF-8"
    if payload and 0xA0 <= payload[0] <= 0xBF:
        return "CBOR: set `format: cbor` of the source"
    if payload and (0x80 <= payload[0] <= 0x8F or payload[0] in (0xDE, 0xDF)):
        return "MessagePack: set `format: msgpack` of the source"
    try:
        payload.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"Latin-1 or the like (byte {error.start + 1} is no UTF-8): have the device send UTF-8"
    return None


_LOADERS: Mapping[str, Callable[[bytes], object]] = {
    "json": _json,
    "scalar": _scalar,
    "cbor": _cbor,
    "msgpack": _msgpack,
}
