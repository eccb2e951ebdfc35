"""One customer floods: 20,000 invented devices and 2,000 payloads of 64 KiB of garbage. It is bounded by its
quotas and told, everything that was acknowledged is accounted for, and the acknowledgements of another
customer's messages take at most twice as long.

Ingest runs in this process, on the daemon's event loop and a database of its own. The broker and those who publish are
other machines where this is real: here they share one processor, and what is measured has another, or half of what is
measured would be who waits for a processor. Measured is from the receipt of a message to its PUBACK, as
`fieldgate_mqtt_ack_seconds` does, by customer; of several rounds, each a calm time and one with a flood, the median
counts. The first does not: each session plans its statements once. The daemon's own collector does not look at
pytest's heap.
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import uvloop

from benchmarks.report import quantile
from benchmarks.servers import wait_until
from gateway.ingest import Ingest
from gateway.ingest.batch import Acknowledger, Message
from gateway.ingest.pipeline import Pipeline
from gateway.ingest.session import IngestSession
from gateway.settings import Settings
from gateway.store.connections import register_customers
from gateway.store.migrate import migrate
from gateway.store.pool import Database
from tests.fault.rig import started

DEVICES = 20_000
GARBAGE = 2_000
GARBAGE_BYTES = 64 << 10
STEADY_A_SECOND = 200
PHASE_SECONDS = 20.0
ROUNDS = 4
QUOTA = {"messages_per_second": 20, "bytes_per_second": 32_768}
"""Some times what a customer with a few devices sends; a minute of it may come at once."""

FLOOD = f"""
import asyncio, random, sys
from benchmarks.mqtt import Publisher
async def main(port, turn):
    noise = random.Random(turn)
    async with Publisher(port, f"flood-{{turn}}", window=200) as publisher:
        for number in range({DEVICES}):
            await publisher.publish(f"acme/devices/x{{turn}}-{{number}}/telemetry", b'{{"t": 1}}', number)
            if number % {DEVICES // GARBAGE} == 0:
                body = noise.randbytes({GARBAGE_BYTES})
                await publisher.publish("acme/devices/garbage/telemetry", body, -number)
        await publisher.flush()
asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
"""

STEADY = f"""
import asyncio, sys, time
from benchmarks.mqtt import Publisher
async def main(port):
    began, number = time.monotonic(), 0
    over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    async with Publisher(port, "steady") as publisher:
        while not over.done():
            while number < (time.monotonic() - began) * {STEADY_A_SECOND}:
                topic = f"globex/devices/pump-{{number % 20}}/telemetry"
                await publisher.publish(topic, b'{{"n": %d}}' % number, number)
                number += 1
            await asyncio.sleep(0.005)
        await publisher.flush()
    print(number)
asyncio.run(main(int(sys.argv[1])))
"""


class Watch:
    """Notes how long each message waited for its PUBACK."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._open: dict[int, tuple[float, str]] = {}
        self._waited: list[tuple[str, float]] = []
        self.counts = {"acme": 0, "globex": 0}
        receive, acknowledge = Pipeline.receive, IngestSession.acknowledge

        def received(pipeline: Pipeline, session: Acknowledger, messages: Sequence[Message]) -> None:
            now = time.perf_counter()
            for topic, _, packet, _ in messages:
                if packet is not None:
                    self._open[packet] = (now, topic.partition("/")[0])
            receive(pipeline, session, messages)

        def acknowledged(session: IngestSession, packets: bytes) -> bool:
            now = time.perf_counter()
            for place in range(2, len(packets), 4):
                at, customer = self._open.pop(int.from_bytes(packets[place : place + 2], "big"))
                self._waited.append((customer, now - at))
                self.counts[customer] += 1
            return acknowledge(session, packets)

        patch.setattr(Pipeline, "receive", received)
        patch.setattr(IngestSession, "acknowledge", acknowledged)

    def taken(self) -> list[float]:
        """Of the other customer's messages since it was asked last."""
        waited, self._waited = self._waited, []
        return [seconds for customer, seconds in waited if customer == "globex"]


def confine(processors: set[int], *processes: int) -> None:
    """These processes run there only; where the system has no such thing, anywhere."""
    for pid in processes:
        if processors:
            os.sched_setaffinity(pid, processors)


async def process(program: str, *arguments: object, talks: bool = False) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE if talks else None
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        *map(str, arguments),
        cwd=Path(__file__).parents[2],
        stdin=pipe,
        stdout=pipe,
    )


@pytest.fixture
def processors() -> Iterator[tuple[set[int], set[int]]]:
    """That of those who publish, that of what is measured; the same where there is one."""
    if sys.platform != "linux":
        yield set(), set()
        return
    mine = os.sched_getaffinity(0)
    first, *others = sorted(mine)
    yield {first}, {others[0] if others else first}
    os.sched_setaffinity(0, mine)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_flood_is_bounded_told_and_felt_by_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processors: tuple[set[int], set[int]]
) -> None:
    uvloop.run(flooded_beside_others(tmp_path, monkeypatch, processors))


async def flooded_beside_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processors: tuple[set[int], set[int]]
) -> None:
    watch, calm, flooded = Watch(monkeypatch), list[float](), list[float]()  # p99 of each round
    theirs, ours = processors
    async with started(tmp_path, persistent=False) as rig:
        confine(theirs, rig.broker.pid)
        confine(ours, rig.postgres.pid, os.getpid())
        settings = Settings.model_validate({
            "broker": {"url": rig.broker.url},
            "customers": ["acme", "globex"],
            "quotas": {"customers": {"acme": QUOTA}},
            "security": {"encryption_keys": ["k" * 32]},
        })  # fmt: skip
        database = await Database.open(rig.dsn, size=4)
        await migrate(database)
        await register_customers(database, settings.customers)
        ingest = Ingest(settings, database, replica="flood")
        running = asyncio.create_task(ingest.run())
        await wait_until(lambda: ingest.connected, seconds=30, what="it is connected")
        steady = await process(STEADY, rig.broker.port, talks=True)
        confine(theirs, steady.pid)
        await wait_until(lambda: watch.counts["globex"] > 500, seconds=60, what="it sends")
        gc.collect()
        gc.freeze()
        for turn in range(ROUNDS):
            watch.taken()
            await asyncio.sleep(PHASE_SECONDS)
            calm.append(quantile(watch.taken(), 0.99))
            began, flood = time.monotonic(), await process(FLOOD, rig.broker.port, turn)
            confine(theirs, flood.pid)
            assert await flood.wait() == 0
            expected = (turn + 1) * (DEVICES + GARBAGE)
            await wait_until(lambda n=expected: watch.counts["acme"] == n, seconds=120, what="all is taken")
            took = time.monotonic() - began
            await asyncio.sleep(max(0.0, PHASE_SECONDS - took))
            flooded.append(quantile(watch.taken(), 0.99))
        sent = int((await steady.communicate(b"\n"))[0])
        await wait_until(lambda: watch.counts["globex"] == sent, seconds=60, what="all is acknowledged")
        times = [two / one for one, two in zip(calm[1:], flooded[1:], strict=True)]
        print(
            f"acknowledgement p99 of others, each second one beside a flood of {took:.1f} s: "
            + ", ".join(
                f"{one * 1000:.1f} and {two * 1000:.1f}" for one, two in zip(calm, flooded, strict=True)
            )
            + f" ms: {statistics.median(times):.2f} times"
        )
        await ingest.stop()
        running.cancel()
        await database.close()

        [(stored,)] = await rig.fetch("select count(*) from telemetry where customer_id = 'acme'")
        [(kept,)] = await rig.fetch("select coalesce(sum(occurrences), 0) from dead_letter")
        [(dropped,)] = await rig.fetch("select sum(dropped) from quota_excess")
        assert stored + kept + dropped == ROUNDS * (DEVICES + GARBAGE), "each is stored, kept, or counted"
        assert await rig.count("device") < 20 + ROUNDS * 60 * 20 * 2
        [(size,)] = await rig.fetch("select sum(octet_length(payload)) from dead_letter")
        assert size < 20 << 20
        told = await rig.fetch("select data ->> 'quota' from event where type = 'quota.exceeded'")
        assert {row[0] for row in told} <= {"messages_per_second", "bytes_per_second"}
        assert 0 < len(told) <= 2 * ROUNDS
        [(others,)] = await rig.fetch("select count(*) from telemetry where customer_id = 'globex'")
        assert others == sent
        assert statistics.median(times) <= 2
