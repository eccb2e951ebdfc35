"""Owns a TCP relay on loopback that can cut, hang and resume, and that can time-stamp QoS 1 messages and
their acknowledgements.

Run as a program (`python -m benchmarks.relay TARGET_PORT`) it prints its port; at each line of its input, and
at the end, the acknowledgement times since the line before, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time

import uvloop

from benchmarks.servers import free_port

PUBLISH, PUBACK = 3, 4


class Frames:
    """Cuts one direction of an MQTT stream into (type, packet id) of its PUBLISH (QoS
    1) and PUBACK packets.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[tuple[int, int]]:
        """The packets that are complete with this chunk."""
        data, position, found = self._rest + chunk, 0, []
        while (header := _header(data, position)) is not None:
            body, end = header
            if end > len(data):
                break
            kind = data[position] >> 4
            if kind == PUBACK:
                found.append((PUBACK, int.from_bytes(data[body : body + 2], "big")))
            elif kind == PUBLISH and data[position] & 6:
                at = body + 2 + int.from_bytes(data[body : body + 2], "big")
                found.append((PUBLISH, int.from_bytes(data[at : at + 2], "big")))
            position = end
        self._rest = data[position:]
        return found


def _header(data: bytes, position: int) -> tuple[int, int] | None:
    """Where the body starts and ends; None while the length is incomplete."""
    length, shift = 0, 0
    for index in range(position + 1, min(position + 5, len(data))):
        length |= (data[index] & 127) << shift
        shift += 7
        if not data[index] & 128:
            return index + 1, index + 1 + length
    return None


class Relay:
    """Between a client and `target`. `hang` keeps connections open and passes nothing, as a dead link does;
    `cut` closes them.
    """

    def __init__(self, target: int, *, measure: bool = False) -> None:
        self.port = free_port()
        self.target = target
        self.accepted = 0
        self.seconds: list[float] = []
        self._measure = measure
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._link, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        self._flowing.set()
        self.cut(refuse=True)
        await asyncio.gather(*self._links)

    def hang(self) -> None:
        """Passes nothing until `resume`; connections stay."""
        self._flowing.clear()

    def resume(self) -> None:
        """Passes again, and accepts again."""
        self._refusing = False
        self._flowing.set()

    def cut(self, *, refuse: bool = False) -> None:
        """Closes every connection; with `refuse`, new ones are closed at once until `resume`."""
        self._refusing = refuse
        for writer in list(self._writers):
            writer.transport.abort()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        self._writers.add(writer)
        self.accepted += 1
        try:
            if not self._refusing:
                await self._converse(reader, writer)
        except OSError:
            pass
        finally:
            writer.close()
            self._writers.discard(writer)
            self._links.discard(task)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers.add(far_writer)
        sent: dict[int, float] = {}
        try:
            outward = asyncio.create_task(self._pump(reader, far_writer, sent))
            inward = asyncio.create_task(self._pump(far_reader, writer, sent))
            await asyncio.wait({outward, inward}, return_when=asyncio.FIRST_COMPLETED)
            for task in (outward, inward):
                task.cancel()
            await asyncio.gather(outward, inward, return_exceptions=True)
        finally:
            far_writer.close()
            self._writers.discard(far_writer)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: dict[int, float]
    ) -> None:
        frames = Frames()
        while chunk := await reader.read(65536):
            await self._flowing.wait()
            if self._measure:
                now = time.perf_counter()
                for kind, identifier in frames.feed(chunk):
                    if kind == PUBLISH:
                        sent[identifier] = now
                    elif (since := sent.pop(identifier, None)) is not None:
                        self.seconds.append(now - since)
            writer.write(chunk)
            await writer.drain()


async def _main(target: int) -> None:
    async with Relay(target, measure=True) as relay:
        print(relay.port, flush=True)
        more = True
        while more:
            more = bool(await asyncio.to_thread(sys.stdin.readline))
            seconds, relay.seconds = relay.seconds, []
            print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_main(int(sys.argv[1])))
