"""A receiver of JSON of our own: it checks signatures, tokens, idempotency keys and every field, and can be
asked what it holds. An ASGI application.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs

import orjson

from gateway.model.sample import Value


@dataclass(slots=True)
class Receiver:
    """`secret`: requests must be signed with it. `token`: the bearer token that is good at the moment. What
    it holds is by key.

    `deduplicates`: one value for each key, the last. `tells`: answers with a result for each reading, else
    takes a request whole or not at all. `replays`: a request that comes again under its idempotency key is
    answered as before, and nothing is done.
    """

    secret: str | None = None
    token: str | None = None
    deduplicates: bool = False
    tells: bool = False
    replays: bool = False
    refused_meter: str = "refused"
    readings: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    answered: dict[str, tuple[int, object]] = field(default_factory=dict)
    """By idempotency key."""
    bodies: list[object] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)
    """Statuses to answer next, before anything is done."""

    def held(self) -> dict[tuple[str, datetime], list[Value]]:
        held: dict[tuple[str, datetime], list[Value]] = {}
        for items in self.readings.values():
            for item in items:
                held.setdefault((item["meter"], datetime.fromisoformat(item["time"])), []).append(
                    item["value"]
                )
        return held

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        status, document = self._answer(scope["method"], scope["query_string"].decode(), headers, body)
        said = b"" if scope["method"] == "HEAD" else orjson.dumps(document)
        head = [(b"content-type", b"application/json"), (b"content-length", str(len(said)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": said})

    def _answer(self, method: str, query: str, headers: dict[str, str], body: bytes) -> tuple[int, object]:
        self.headers.append(headers)
        if self.faults:
            return self.faults.pop(0), {"detail": "as you like"}
        if self.token is not None and headers.get("authorization") != f"Bearer {self.token}":
            return 401, {"detail": "who are you"}
        if method in ("GET", "HEAD"):
            wanted = parse_qs(query).get("keys", [""])[0].split(",")
            return 200, {"readings": [self.readings[key][-1] for key in wanted if key in self.readings]}
        if self.secret is not None:
            good = "sha256=" + hmac.new(self.secret.encode(), body, hashlib.sha256).hexdigest()
            if not hmac.compare_digest(good, headers.get("x-signature-256", "")):
                return 401, {"detail": "the signature does not fit the body"}
        key = headers.get("idempotency-key", "")
        if key in self.answered and self.replays:
            return self.answered[key]
        self.answered[key] = self._take(orjson.loads(body))
        return self.answered[key]

    def _take(self, document: object) -> tuple[int, object]:
        self.bodies.append(document)
        items: Any = document["items"] if isinstance(document, dict) and "items" in document else document
        items = items if isinstance(items, list) else [items]
        faults = [self._fault(item) for item in items]
        if any(faults) and not self.tells:
            return 422, {"detail": next(fault for fault in faults if fault)}
        results = []
        for item, fault in zip(items, faults, strict=True):
            if fault:
                results.append({"status": "refused", "code": "E42", "message": fault})
                continue
            before = self.readings.setdefault(item["key"], [])
            same = bool(before) and before[-1]["value"] == item["value"]
            if self.deduplicates:
                before.clear()
            before.append(item)
            results.append(
                {
                    "status": "duplicate" if same and self.deduplicates else "accepted",
                    "id": f"r-{item['key']}",
                }
            )
        return (200, {"results": results}) if self.tells else (202, {})

    def _fault(self, item: dict[str, Any]) -> str | None:
        if item["meter"] == self.refused_meter:
            return f"no such meter: {item['meter']}"
        if len(item["meter"]) > 200 or not item["meter"]:
            return "a meter has 1 to 200 characters"
        return None
