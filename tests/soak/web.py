"""The least of an HTTP server on loopback: what it answers, and whether at all, its subclass decides."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request. `headers` by names in small letters; of a parameter that comes twice, the first."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


class Web:
    """Serves until it is left. A subclass has `answer`, which says something or cuts the connection."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, str]] = []
        """Each request: when, by the monotonic clock, and what."""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def answer(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        """False where the connection is to end."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._converse, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            is_on = True
            while is_on:
                asked = await _asked(reader)
                self.asked.append((time.monotonic(), f"{asked.method} {asked.path}"))
                is_on = await self.answer(asked, writer)
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass  # cancelled at the end of the campaign, when nobody waits for it
        finally:
            writer.close()
            self._tasks.discard(task)

    def say(
        self,
        writer: asyncio.StreamWriter,
        status: str,
        document: object,
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        """Writes an answer in JSON; the connection goes on."""
        body = json.dumps(document).encode()
        lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        return True


async def _asked(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    method, target, _ = head.split(" ", 2)
    headers = {
        name.lower(): value.strip()
        for name, value in re.findall(r"^([^:\r\n]+):([^\r\n]*)", head, re.MULTILINE)
    }
    parts = urlsplit(target)
    return Asked(
        method=method,
        path=parts.path,
        query={name: values[0] for name, values in parse_qs(parts.query).items()},
        headers=headers,
        body=await reader.readexactly(int(headers.get("content-length", "0"))),
    )
