"""The line between the daemon and its HTTP process: a socket pair that carries JSON documents, one a line.

With one byte before the first document the daemon gives the sockets that listen. It says `{"start": ...}`
first, `{"serve": true}` when the API may answer, `{"stop": true}` when it may not, and `{"settings": ...}`
after a reload; the HTTP process asks `{"ask": name, "number": n, ...}` and is given `{"answer": ...,
"number": n}`. Either side knows by the end of the line that the other is gone.
"""

from __future__ import annotations

import asyncio
import base64
import pickle
import socket
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import orjson

from gateway.model.errors import RequestRefused
from gateway.processes import counters
from gateway.settings import Settings

MAX_LINE = 64 << 20
"""Bytes; an exposition of a hundred thousand series is 20 MB."""

ANSWER_SECONDS = 5.0

Document = Mapping[str, Any]


def packed(thing: object) -> str:
    """What is no JSON, and holds secrets, for the other process."""
    return base64.b64encode(pickle.dumps(thing)).decode()


def unpacked(text: str) -> Any:
    """What the daemon packed."""
    return pickle.loads(base64.b64decode(text))  # noqa: S301 - from our own daemon


class Channel:
    """One end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def over(cls, end: socket.socket) -> Channel:
        """Takes the socket as its own."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=MAX_LINE))

    def send(self, document: Document) -> None:
        """Nothing happens when the other side is gone: whoever listens learns of it."""
        if not self._writer.is_closing():  # uvloop raises where asyncio's own loop is silent
            self._writer.write(orjson.dumps(document) + b"\n")

    async def receive(self) -> Document | None:
        """The next document; None when the other side is gone."""
        try:
            line = await self._reader.readline()
        except OSError:
            return None
        if not line.endswith(b"\n"):
            return None
        document: Document = orjson.loads(line)
        return document

    def close(self) -> None:
        """The other side learns of it."""
        self._writer.close()


class Daemon:
    """The daemon, as the HTTP process sees it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._numbers = count()
        self.serving = asyncio.Event()
        self.leaving = asyncio.Event()
        self._reloaded: Settings | None = None
        self._know: Callable[[Settings], object] = lambda _: None

    def tell_settings(self, know: Callable[[Settings], object]) -> None:
        """Calls it with those that a reload brings, and at once with those that one has brought."""
        self._know = know
        if self._reloaded is not None:
            know(self._reloaded)

    async def listen(self) -> None:
        """Takes what the daemon says, until it stops us or is gone: then `leaving` is set."""
        while (said := await self._channel.receive()) is not None and "stop" not in said:
            if "serve" in said:
                self.serving.set()
            elif "settings" in said:
                self._reloaded = unpacked(said["settings"])
                self._know(self._reloaded)
            elif (asked := self._asked.get(said["number"])) is not None and not asked.done():
                asked.set_result(said["answer"])
        self.leaving.set()

    async def alive(self) -> None:
        """Returns when the daemon's loop has turned. Raises RequestRefused("gateway.overloaded") when it does
        not.
        """
        await self._ask("alive")

    async def checks(self) -> dict[str, bool]:
        """Which parts are well; `daemon: false` alone when it does not answer."""
        try:
            found: dict[str, bool] = await self._ask("checks")
        except RequestRefused:
            return {"daemon": False}
        return found

    async def exposition(self, accept: str) -> tuple[str, str]:
        """The metrics of both processes, and their media type. Raises RequestRefused("gateway.overloaded")
        when the daemon does not answer.
        """
        text, media_type = await self._ask("exposition", accept=accept, counted=counters.counts())
        return text, media_type

    async def _ask(self, question: str, **details: object) -> Any:
        number, answer = next(self._numbers), asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self._channel.send({"ask": question, "number": number, **details})
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answer
        except TimeoutError:
            raise RequestRefused(
                "gateway.overloaded",
                "The gateway's own process does not answer; its log says what it does.",
                retry_after=1.0,
            ) from None
        finally:
            del self._asked[number]
