"""A system with many work orders that takes readings too, as a program of its own: `python -m
benchmarks.work_orders COUNT DAYS`. It prints its port, and then, for each line of its input, JSON: `show`
changes every order, and shows them where it did not yet (the answer is how many there are); an empty line
asks how late each reading since the last such line came, in seconds after its time, and how many requests and
orders were given.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import parse_qs, urlsplit

import uvloop

MARGIN = timedelta(hours=6)
"""By which the oldest is younger than the days that are asked for, however long a benchmark takes."""


class WorkOrders:
    """The orders changed one after the other, evenly over the days before the start; their times never
    change.
    """

    def __init__(self, count: int, days: int) -> None:
        now = datetime.now(UTC).replace(microsecond=0)
        step = (timedelta(days=days) - MARGIN) / count
        self._times = [_written(now - step * (count - number)) for number in range(count)]
        self._edition = 0
        self.late: list[float] = []
        self.requests = self.given = 0
        self.links: dict[asyncio.Task[None] | None, asyncio.StreamWriter] = {}

    def show(self) -> int:
        """A new edition of every order."""
        self._edition += 1
        return len(self._times)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, as long as it lives."""
        self.links[asyncio.current_task()] = writer
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, _, headers = head.decode("latin-1").partition("\r\n")
                length = next(
                    (
                        int(each.partition(":")[2])
                        for each in headers.lower().splitlines()
                        if each.startswith("content-length:")
                    ),
                    0,
                )
                body = await reader.readexactly(length)
                method, target, _ = line.split(" ")
                answer = self._take(body) if method == "POST" else self._page(target)
                date = format_datetime(datetime.now(UTC), usegmt=True)
                writer.write(
                    f"HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Type: application/json\r\nContent-Length:"
                    f" {len(answer)}\r\n\r\n".encode()
                    + answer
                )
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # it left
        finally:
            writer.close()

    def _take(self, body: bytes) -> bytes:
        now = time.time()
        self.late += [
            now - datetime.fromisoformat(reading["time"]).timestamp() for reading in json.loads(body)
        ]
        return b"{}"

    def _page(self, target: str) -> bytes:
        address = urlsplit(target)
        if address.path != "/orders" or not self._edition:
            return b'{"items": [], "next": null}'
        asked = {name: values[0] for name, values in parse_qs(address.query).items()}
        first = bisect_left(self._times, asked.get("since", ""))
        last = bisect_left(self._times, asked["until"])
        first = max(first, int(asked.get("cursor", "0")))
        end = min(last, first + int(asked["limit"]))
        self.requests += 1
        self.given += max(0, end - first)
        items = ",".join(self._order(number) for number in range(first, end))
        following = f'"{end}"' if end < last else "null"
        return f'{{"items": [{items}], "next": {following}}}'.encode()

    def _order(self, number: int) -> str:
        return (
            f'{{"id": {number}, "updatedAt": "{self._times[number]}", "edition": {self._edition}, "status":'
            f' "OPEN", "title": "Pump {number % 97} is hot", "asset": {{"id": {number % 1000}, "name":'
            f' "pump-{number % 1000}"}}, "labels": ["urgent", "mechanical"], "description": "Bearing'
            ' temperature above the limit since the last inspection of the line."}'
        )


def _written(at: datetime) -> str:
    return at.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


async def main(count: int, days: int) -> None:
    """Until its input ends."""
    system = WorkOrders(count, days)
    server = await asyncio.start_server(system.serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        if line.strip() == b"show":
            print(system.show(), flush=True)
            continue
        late, system.late = system.late, []
        print(json.dumps({"late": late, "requests": system.requests, "given": system.given}), flush=True)
        system.requests = system.given = 0
    server.close()
    for writer in system.links.values():
        writer.close()
    await asyncio.gather(*filter(None, system.links))


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
