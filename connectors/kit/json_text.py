"""Reads the JSON of systems: what comes out can be walked, shown and written again without harm. Pure."""

from __future__ import annotations

import orjson

MAX_UNSEEN_LEVELS = 100  # a document has no more levels than brackets that open


def parse_json(body: bytes) -> object:
    """The document; None for nothing, for what is not JSON, and for one nested deeper than can be written.

    The reader takes 1024 levels, the writer 254 and Python's own `str` not many more, so a document between
    them would raise in whoever shows it.
    """
    try:
        document = orjson.loads(body.removeprefix(b"\xef\xbb\xbf"))
        if isinstance(document, dict | list) and body.count(b"[") + body.count(b"{") > MAX_UNSEEN_LEVELS:
            orjson.dumps(document)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    return document
