"""A whole answer of a system, and whether one with 2xx is what was asked for: a proxy or a login page in the
way says 200 as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, assert_never

from connectors.kit.classify import asks_for_login
from connectors.kit.json_text import parse_json

Expected = Literal["json", "multipart", "anything", "reachable"]
"""What makes an answer with 2xx good. `json`: JSON or nothing, under whatever content type. `anything`: all
but a web page, which a proxy may have said. `reachable`: all but a page that asks for a login.
"""
_PAGE = re.compile(rb"<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_MULTIPART = re.compile(r"multipart/mixed\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """2xx, or a status that the caller asked for. `json` is None for an empty body or one that is not JSON.
    `cookies_given`: by so many answers, up to this one.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    json: object
    request_id: str | None
    cookies_given: int = 0

    @property
    def content_type(self) -> str:
        """As the header says it, empty where it does not."""
        return self.headers.get("content-type", "")

    @property
    def is_markup(self) -> bool:
        """Whether it is a web page, or another text in angle brackets."""
        return "html" in self.content_type.lower() or _text(self.body)[:1] == b"<"

    def fits(self, expects: Expected) -> bool:
        """Whether it is what was asked for."""
        text = _text(self.body)
        is_page = text[:1] == b"<" and ("html" in self.content_type.lower() or _PAGE.match(text) is not None)
        match expects:
            case "multipart":
                return _MULTIPART.match(self.content_type) is not None
            case "json":
                return not text or self.json is not None
            case "anything":
                return not is_page
            case "reachable":
                return not (is_page and asks_for_login(self.body))
            case _:
                assert_never(expects)


def parse_body(body: bytes, headers: Mapping[str, str]) -> object:
    """Its JSON; None where it is none."""
    if _MULTIPART.match(headers.get("content-type", "")):
        return None
    return parse_json(body)


def _text(body: bytes) -> bytes:
    return body.removeprefix(b"\xef\xbb\xbf").lstrip()
