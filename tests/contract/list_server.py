"""A list of JSON of our own for the inbound suite, paged in every way that `http_json` knows. An ASGI
application.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qs, urlencode

import orjson

Item = dict[str, Any]


@dataclass(slots=True)
class ListServer:
    """GET /things: `since` (inclusive), `until` (exclusive) and `status` choose; `limit` is the page.

    kind: how it is paged. A `next` or `cursor` names the last record and is good while `generation` stands;
    page and offset count, so what leaves the list before them moves all that follows. ahead: of our clock.
    is_unsorted: by keys, whatever is asked.
    """

    kind: str
    write: Callable[[datetime], Any]
    """The time of a record as the list writes it, and compares it."""
    items: dict[str, Item] = field(default_factory=dict)
    changed: dict[str, datetime] = field(default_factory=dict)
    ahead: timedelta = timedelta(0)
    is_unsorted: bool = False
    generation: int = 0
    requests: list[str] = field(default_factory=list)

    def put(self, key: str, at: datetime, **values: Any) -> None:
        self.changed[key] = at
        self.items[key] = {"id": key, "updated": self.write(at), **values}

    def remove(self, key: str) -> None:
        del self.items[key], self.changed[key]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        self.requests.append(f"{scope['method']} {scope['path']}?{scope['query_string'].decode()}")
        if scope["path"] == "/readings":
            status, document, headers = 200, {}, []
        else:
            status, document, headers = self._answer(query)
        body = b"" if scope["method"] == "HEAD" else orjson.dumps(document)
        now = format_datetime(datetime.now(UTC) + self.ahead, usegmt=True)
        head = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"date", now.encode()),
            *headers,
        ]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, query: dict[str, str]) -> tuple[int, Any, list[tuple[bytes, bytes]]]:
        limit = int(query.get("limit", "7"))
        rows = sorted(
            (
                (item["updated"], key)
                for key, item in self.items.items()
                if _fits(item["updated"], query)
                and query.get("status", item.get("status")) == item.get("status")
            ),
            key=(lambda row: row[1]) if self.is_unsorted else None,
        )
        begin = 0
        if "after" in query:
            generation, mark, key = query["after"].split("|", 2)
            if int(generation) != self.generation:
                return 410, {"error": "this cursor has expired"}, []
            last = (self.write(datetime.fromisoformat(mark)), key)
            begin = sum(row <= last for row in rows)
        elif self.kind == "offset":
            begin = int(query.get("offset", "0"))
        elif self.kind == "page":
            begin = (int(query.get("number", "1")) - 1) * limit
        page = rows[begin : begin + limit]
        document: dict[str, Any] = {"things": [self.items[key] for _, key in page], "count": len(rows)}
        headers: list[tuple[bytes, bytes]] = []
        if page and begin + limit < len(rows):
            key = page[-1][1]
            word = f"{self.generation}|{self.changed[key].isoformat()}|{key}"
            link = "/things?" + urlencode({**query, "after": word})
            if self.kind == "next":
                document["next"] = link
            elif self.kind == "header":
                headers.append((b"link", f'<{link}>; rel="next", </things>; rel="first"'.encode()))
            elif self.kind == "cursor":
                document["cursor"] = word
        return 200, document, headers


def _fits(updated: Any, query: dict[str, str]) -> bool:
    def read(text: str) -> Any:
        return int(text) if isinstance(updated, int) else text

    return ("since" not in query or updated >= read(query["since"])) and (
        "until" not in query or updated < read(query["until"])
    )
