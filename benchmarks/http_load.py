"""Owns the asking side of HTTP: a few keep-alive connections that ask for one path, as fast as they are
answered or at a rate. A program of its own.

`python -m benchmarks.http_load PORT PATH CONNECTIONS` reads the value of `Authorization` from its first line.
Each further line is a phase, `SECONDS RATE` (rate 0: each connection asks again once it is answered), that it
answers with a line of JSON: `since` and `until` (wall clock) and `seconds`, how long each answer took. At a
rate, time counts from when the request was due: what had to wait for a connection has waited; what is still
due at the end is not asked.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import orjson
import uvloop

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked, again and again, and what an answer must say."""

    request: bytes
    connection: str

    async def ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request. Raises ValueError for anything but a 200 with the document of the connection."""
        writer.write(self.request)
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        body = await reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200 ") or orjson.loads(body)["connection"] != self.connection:
            raise ValueError(
                f"expected the status of {self.connection}: {lines[0].decode()}"
                f" {body[:300].decode(errors='replace')}"
            )


async def _phase(asked: Asked, streams: list[Streams], seconds: float, rate: float) -> dict[str, object]:
    took: list[float] = []
    since, started = time.time(), time.perf_counter()
    due = (started + number / rate for number in count()) if rate else iter(time.perf_counter, None)
    await asyncio.gather(
        *(_worker(asked, reader, writer, due, started + seconds, took) for reader, writer in streams)
    )
    return {"since": since, "until": time.time(), "seconds": took}


async def _worker(
    asked: Asked,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    due: Iterator[float],
    until: float,
    took: list[float],
) -> None:
    for at in due:
        if max(at, time.perf_counter()) >= until:
            return
        if (wait := at - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        await asked.ask(reader, writer)
        took.append(time.perf_counter() - at)


async def _main(port: int, path: str, connections: int) -> None:
    authorization = (await asyncio.to_thread(sys.stdin.readline)).strip()
    request = (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: application/json\r\nAuthorization:"
        f" {authorization}\r\n\r\n".encode()
    )
    asked = Asked(request=request, connection=path.split("/")[3])
    while line := await asyncio.to_thread(sys.stdin.readline):
        seconds, rate = map(float, line.split())
        streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(connections)]
        for reader, writer in streams:
            await asked.ask(reader, writer)  # what a new connection costs is not asked for
        print(json.dumps(await _phase(asked, streams, seconds, rate)), flush=True)
        for _, writer in streams:
            writer.close()


if __name__ == "__main__":
    os.nice(10)  # who asks must not take the core from who is asked
    uvloop.run(_main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
