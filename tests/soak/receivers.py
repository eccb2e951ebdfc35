"""A receiver of JSON that writes down everything, and fails as it is told: for a while, or now and then."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from tests.soak.oracle import Held, Value, Window
from tests.soak.web import Asked, Web

Kind = Literal["deduplicates", "asked", "blind"]
"""Keeps one reading for each key · appends, answers for each reading and can be asked · appends, and that is
all.
"""

Answer = Literal[
    "well",
    "500",
    "503",
    "429",
    "retry",
    "lost",
    "cut",
    "slow",
    "detached",
    "502_after",
    "silent",
    "down",
    "403",
]
"""`lost`, `502_after`: done, but not said. `detached`: cut at once, done a moment later. `silent`: nothing is
done and nothing said. `down`: as `cut`, and the probe too.
"""
NOW_AND_THEN: tuple[tuple[Answer, float], ...] = (
    ("lost", 0.01), ("cut", 0.005), ("500", 0.005), ("429", 0.005), ("retry", 0.01), ("detached", 0.005), ("502_after", 0.005),
)  # fmt: skip
DETACHED_SECONDS = 0.8
_STATUSES = {
    "500": "500 Internal Server Error",
    "502_after": "502 Bad Gateway",
    "503": "503 Service Unavailable",
    "403": "403 Forbidden",
}


class Receiver(Web):
    """One system. `mode` is what every push meets; in `well` they meet what chance decides."""

    def __init__(self, kind: Kind, *, seed: int) -> None:
        super().__init__()
        self.kind = kind
        self.mode: Answer = "well"
        self.calm = False
        """No faults by chance any more."""
        self.told: dict[Window, list[Value]] = {}
        self.faults: Counter[str] = Counter()
        self.requests = 0
        self.busy = asyncio.Event()
        """Set by each push that arrives, cleared by whoever waits for one."""
        self.complaints: list[str] = []
        self._by_key: dict[str, tuple[Window, Value]] = {}
        self._chance = random.Random(seed)

    @property
    def settings(self) -> dict[str, object]:
        """Of a connection to it."""
        settings: dict[str, object] = {"base_url": self.url, "probe_path": "/probe", "max_items": 25}
        if self.kind == "deduplicates":
            settings["deduplicates"] = True
        elif self.kind == "asked":
            settings |= {"results": {}, "read_back": {"path": "/readings"}}
        return settings

    @property
    def held(self) -> Held:
        """What it holds now: of appended readings the last."""
        values = {window: told[-1] for window, told in self.told.items()}
        return Held(values=values, told=self.told, repeats_are_errors=self.kind == "asked")

    async def answer(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        """As the mode has it."""
        if asked.method == "POST":
            return await self._push(json.loads(asked.body), writer)
        if self.mode == "down":
            writer.transport.abort()
            return False
        if "keys" not in asked.query:
            return self.say(writer, "200 OK", {})
        wanted = asked.query["keys"].split(",")
        found = [{"key": key, "value": self._by_key[key][1]} for key in wanted if key in self._by_key]
        return self.say(writer, "200 OK", {"readings": found})

    async def _push(self, items: list[Mapping[str, Any]], writer: asyncio.StreamWriter) -> bool:
        self.requests += 1
        self.busy.set()
        fault = self._fault()
        if fault != "well":
            self.faults[fault] += 1
        match fault:
            case "cut" | "down":
                writer.transport.abort()
                return False
            case "500" | "503" | "403":
                return self.say(
                    writer,
                    _STATUSES[fault],
                    {"detail": "as told"},
                    {"Retry-After": "1"} if fault == "503" else {},
                )
            case "429":
                return self.say(writer, "429 Too Many Requests", {}, {"Retry-After": "1"})
            case "silent":
                # Longer than anybody waits for an answer; the client has hung up by then.
                await asyncio.sleep(self._chance.uniform(20, 30))
                return False
            case "detached":
                writer.transport.abort()
                await asyncio.sleep(DETACHED_SECONDS * self._chance.random())
                self._take(items)
                return False
            case "slow":
                await asyncio.sleep(self._chance.uniform(0.3, 1.2))
            case _:
                pass
        status, document = self._take(items, retry=fault == "retry" and self.kind == "asked")
        if fault == "lost":
            writer.transport.abort()
            return False
        if fault == "502_after":
            return self.say(writer, _STATUSES[fault], {})
        return self.say(writer, status, document)

    def _fault(self) -> Answer:
        if self.mode != "well" or self.calm:
            return self.mode
        place = self._chance.random()
        for fault, share in NOW_AND_THEN:
            if place < share:
                return fault
            place -= share
        return "well"

    def _take(self, items: list[Mapping[str, Any]], *, retry: bool = False) -> tuple[str, object]:
        refused = [item["meter"].endswith("/refused") for item in items]
        if self.kind != "asked" and any(refused):
            return "422 Unprocessable Entity", {"detail": "no such meter"}
        results = []
        for item, is_refused in zip(items, refused, strict=True):
            if is_refused:
                results.append({"status": "rejected", "code": "E42", "message": "no such meter"})
            elif retry and self._chance.random() < 0.5:
                results.append({"status": "retry", "message": "not now"})
            else:
                self._hold(item)
                results.append({"status": "accepted", "id": item["key"]})
        return "200 OK", {"results": results} if self.kind == "asked" else {}

    def _hold(self, item: Mapping[str, Any]) -> None:
        window = (str(item["meter"]), microseconds(item["time"]))
        before = self._by_key.get(item["key"])
        if before is not None and before[0] != window:
            self.complaints.append(f"the key {item['key']} stands for {before[0]} and for {window}")
        self._by_key[item["key"]] = (window, item["value"])
        self.told.setdefault(window, []).append(item["value"])


def microseconds(written: str) -> int:
    """Of an ISO time, exact."""
    at = datetime.fromisoformat(written)
    return int(at.replace(microsecond=0).timestamp()) * 1_000_000 + at.microsecond
