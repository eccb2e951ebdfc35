"""A system that takes events over a socket and misbehaves as systems do: late, cut, refusing, busy. And its
connector, as one that looks a reference up before it makes anything.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.model.connector import Capabilities, Connector, ConnectorSettings, ProbeResult
from gateway.model.errors import AuthRefused, OutcomeUnknown, RateLimited, Unavailable
from gateway.model.exchange import EventToRaise
from gateway.model.outcome import Accepted, Duplicate, Outcome, Rejected
from tests.fixtures.alerting import KINDS, MAKES
from tests.fixtures.scripted import Scripted, ScriptedSystem

SLOW_SECONDS = 1.0
"""Past the time-out of a call: its answer is lost, and what it asked for is done."""

LATE_SECONDS = 0.4
"""How long what was cut may take to arrive all the same."""


@dataclass
class EventSystem:
    """`made` counts the records of each reference: 2 is a work order too many. `mood`: how often it
    misbehaves.
    """

    rand: random.Random
    mood: float = 0.15
    made: Counter[str] = field(default_factory=Counter)
    ids: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    notes: Counter[tuple[str, str]] = field(default_factory=Counter)
    revoked: set[str] = field(default_factory=set)
    misbehaved: Counter[str] = field(default_factory=Counter)
    port: int = 0
    _server: asyncio.Server | None = None
    _late: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> EventSystem:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await asyncio.gather(*self._late)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = json.loads(await reader.readline())
            answer = await self._answer(asked)
            if answer is not None:
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (ValueError, ConnectionError):
            pass  # who asked is gone
        finally:
            writer.close()

    async def _answer(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        if asked["key"] in self.revoked:
            return {"error": "auth"}
        match asked["op"]:
            case "probe":
                return {"ok": True}
            case "find":
                return {"id": self.ids.get(asked["reference"]), "refused": asked["reference"] in self.refused}
            case "note":
                if self.rand.random() < self.mood:
                    return {"error": "unavailable"}
                self.notes[asked["id"], asked["text"]] = 1
                return {"ok": True}
            case _:
                return await self._make(asked["reference"])

    async def _make(self, reference: str) -> dict[str, Any] | None:
        if self.rand.random() >= self.mood:
            await asyncio.sleep(self.rand.random() * 0.01)
            return {"id": self._take(reference)}
        how = self.rand.choice(["500", "429", "refuse", "cut_before", "cut_after", "cut_late", "slow"])
        self.misbehaved[how] += 1
        match how:
            case "500":
                return {"error": "unavailable"}
            case "429":
                return {"error": "busy"}
            case "refuse":
                self.refused.add(reference)
                return {"refused": True}
            case "cut_before":
                return None
            case "cut_after":
                self._take(reference)
                return None
            case "cut_late":
                task = asyncio.create_task(self._later(reference))
                self._late.add(task)
                task.add_done_callback(self._late.discard)
                return None
            case _:
                taken = self._take(reference)
                await asyncio.sleep(SLOW_SECONDS)
                return {"id": taken}

    async def _later(self, reference: str) -> None:
        await asyncio.sleep(self.rand.random() * LATE_SECONDS)
        self._take(reference)

    def _take(self, reference: str) -> str:
        """Each time another record: the system itself knows nothing of references."""
        self.made[reference] += 1
        return self.ids.setdefault(reference, f"WO{len(self.ids)}")


class OverSocket(Scripted):
    """Its connector."""

    def __init__(self, port: int, key: str) -> None:
        super().__init__(capabilities=MAKES)
        self._port, self._key = port, key

    async def probe(self) -> ProbeResult:
        await self._ask(op="probe")
        return ProbeResult(detail="over a socket")

    async def raise_event(self, event: EventToRaise) -> Outcome:
        found = await self._ask(op="find", reference=event.reference)
        if found["id"] is not None:
            return Duplicate(remote_id=found["id"])
        if found["refused"]:
            return Rejected(code="refused", message="it was refused before")
        answer = await self._ask(op="make", reference=event.reference)
        if answer.get("refused"):
            return Rejected(code="refused", message="no")
        return Accepted(remote_id=answer["id"])

    async def note_event(self, remote_id: str, text: str) -> None:
        await self._ask(op="note", id=remote_id, text=text)

    async def _ask(self, **asked: object) -> dict[str, Any]:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError as error:
            raise Unavailable(f"away: {error}") from error
        try:
            writer.write(json.dumps({**asked, "key": self._key}).encode() + b"\n")
            line = await reader.readline()
        except OSError as error:
            raise OutcomeUnknown("cut") from error
        finally:
            writer.close()
        if not line:
            raise OutcomeUnknown("cut")
        answer: dict[str, Any] = json.loads(line)
        match answer.get("error"):
            case "auth":
                raise AuthRefused("401", final=True)
            case "busy":
                raise RateLimited("429", retry_after=0.05)
            case "unavailable":
                raise Unavailable("503")
        return answer


class SocketSystem(ScriptedSystem):
    """The registry's entry: a connector for each connection, by its credential."""

    def __init__(self, port: int) -> None:
        super().__init__(OverSocket(port, ""))
        self.manifest = replace(self.manifest, raises=KINDS)
        self._port = port

    @property
    def capabilities(self) -> Capabilities:
        return MAKES

    def build(self, built_from: ConnectorSettings) -> Connector:
        return OverSocket(self._port, built_from.credentials["api_key"])
