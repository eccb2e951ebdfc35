"""What a person sees of bytes that anybody may have sent. Pure."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

MAX_ESCAPED = 0.2
"""The part of a text that may be escapes: beyond it the bytes say more."""

_ROW = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """`text`: as text, where it is one, with what cannot be seen as escapes; else the
    bytes in hexadecimal.
    """

    text: str
    is_binary: bool


def preview(data: bytes, *, is_cut: bool = False, rows: bool = False) -> Preview:
    """`is_cut`: there is more of it, so that its last character may be a part of one. `rows`: bytes are shown
    as lines of sixteen, with what of them is text beside.
    """
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(data, final=not is_cut)
    except UnicodeDecodeError:
        return Preview(text=_dump(data) if rows else data.hex(" "), is_binary=True)
    escaped = sum(not _is_seen(character) for character in text)
    if escaped > MAX_ESCAPED * len(text):
        return Preview(text=_dump(data) if rows else data.hex(" "), is_binary=True)
    shown = text if not escaped else "".join(c if _is_seen(c) else _escape(c) for c in text)
    return Preview(text=shown, is_binary=False)


def _is_seen(character: str) -> bool:
    return character.isprintable() or character in "\n\t"


def _escape(character: str) -> str:
    code = ord(character)
    if code < 256:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def _dump(data: bytes) -> str:
    lines = []
    for start in range(0, len(data), _ROW):
        part = data[start : start + _ROW]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:06x}  {part.hex(' '):<{3 * _ROW - 1}}  {text}")
    return "\n".join(lines)
