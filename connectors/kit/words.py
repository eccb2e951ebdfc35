"""What an answer that refuses says in words meant for people. Pure, and never raises.

Only the members where systems put their message are read, and never the body as it came: whoever reads the
words chose the address, and an inner service that is no such system would be read out through them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_MEMBERS = ("detail", "message", "error_description", "description", "title", "reason", "error", "value")
_XML_MESSAGE = re.compile(rb"<(?:\w{1,20}:)?message\b[^>]{0,200}>([^<]{1,400})</")
MAX_LENGTH = 20_000


def words_of(document: object, body: bytes, headers: Mapping[str, str]) -> str:
    """The message of a JSON document (`document`) or of an OData fault in XML; else what kind of answer it
    was.
    """
    words = _message(document, depth=3)
    if not words and "xml" in headers.get("content-type", "") and (found := _XML_MESSAGE.search(body[:4000])):
        words = found[1].decode("utf-8", "replace").strip()
    if words:
        return words[:MAX_LENGTH]  # whoever shows it blacks out secrets first, and cuts then
    if not body.strip():
        return "(empty)"
    kind = headers.get("content-type", "").partition(";")[0].strip()[:60] or "no content type"
    return f"({len(body)} bytes of {kind}, without a message that can be read)"


def _message(document: object, *, depth: int) -> str:
    if isinstance(document, str):
        return document.strip() if depth < 3 else ""  # a document that is nothing but a text is no message
    if depth and isinstance(document, Mapping):
        found = (_message(document.get(name), depth=depth - 1) for name in _MEMBERS)
        return next((words for words in found if words), "") or _first(document.get("errors"), depth - 1)
    return ""


def _first(faults: object, depth: int) -> str:
    return _message(faults[0], depth=depth) if isinstance(faults, list) and faults else ""
