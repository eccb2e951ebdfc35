"""What an OData service says in words: errors of either version, and the warnings that go with a success.
Pure, and never raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from connectors.kit.json_text import parse_json


@dataclass(frozen=True, slots=True, kw_only=True)
class ODataFault:
    """The system's own words. `codes` are its code and those of its details, in order; empty where it said
    none.
    """

    codes: tuple[str, ...]
    message: str

    @property
    def code(self) -> str:
        """The first, or `refused`."""
        return self.codes[0] if self.codes else "refused"


def fault_of(document: object, *, text: str = "", clean: Callable[[str], str]) -> ODataFault:
    """Of `{"error": {...}}` in either version's shape; `text` stands in for a document that is none (a web
    page, plain text, nothing). `clean` blacks out secrets: before anything is cut, or a part of one would
    stay.
    """
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        return ODataFault(codes=(), message=_short(clean(text)) or "the system gave no reason")
    inner = error.get("innererror")
    details = error.get("details") or (inner.get("errordetails") if isinstance(inner, dict) else None)
    faults = (
        [error, *(detail for detail in details if isinstance(detail, dict))]
        if isinstance(details, list)
        else [error]
    )
    codes, words = [], []
    for fault in faults[:8]:
        code, message = fault.get("code"), clean(_message(fault.get("message")))
        if isinstance(code, str) and code and code not in codes:
            codes.append(_short(clean(code), 60))
        if message and message not in words:
            words.append(message)
    return ODataFault(codes=tuple(codes), message=_short("; ".join(words)) or "the system gave no reason")


def warnings_of(headers: Mapping[str, str]) -> str:
    """The messages beside a success, for people: `sap-messages` (version 4, a list) and `sap-message`
    (version 2, one with details).
    """
    text = headers.get("sap-messages") or headers.get("sap-message")
    if not text:
        return ""
    read = parse_json(text.encode("utf-8", "replace"))
    items: list[object] = list(read) if isinstance(read, list) else [read]
    words = [
        f"{item.get('code', '')} {_message(item.get('message'))}".strip()
        for item in items[:5]
        if isinstance(item, dict)
    ]
    return _short("; ".join(word for word in words if word))


def _message(value: object) -> str:
    if isinstance(value, dict):
        value = value.get("value")
    return value.strip() if isinstance(value, str) else ""


def _short(text: str, length: int = 400) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text[: 2 * length]).strip()[:length]
