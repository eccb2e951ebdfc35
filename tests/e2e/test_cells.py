"""A customer moves between two gateways while its devices send: nothing is lost, nothing comes twice, and what
belongs to it works where it is.
"""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import aiomqtt
import httpx
import pytest

from benchmarks.mqtt import Publisher
from benchmarks.servers import wait_until
from tests.fault.rig import CUSTOMER, Fleet, size
from tests.fixtures.cells import Cell, Cells, CommandFailed, cells, secret_of
from tests.fixtures.webhook_receiver import Receiver


class Untimed:
    """Devices that send no time, each value once: a copy of a message would be a sample of its own."""

    def __init__(self, port: int) -> None:
        self.values: list[int] = []
        self._publisher: Publisher[int] = Publisher(
            port, "untimed", window=50, acknowledged=self.values.append
        )

    async def run(self, stopping: asyncio.Event) -> None:
        async with self._publisher:
            number = 0
            while not stopping.is_set():
                topic = f"{CUSTOMER}/devices/u{number % 3}/telemetry"
                await self._publisher.publish(
                    topic, json.dumps({"metrics": {"count": number}}).encode(), number
                )
                number += 1
                await asyncio.sleep(0.005)
            await self._publisher.flush()


async def untimed_at(cell: Cell) -> list[int]:
    rows = await cell.fetch(
        "select (metrics ->> 'count')::int as number from telemetry where metrics ? 'count' order by 1"
    )
    return [row["number"] for row in rows]


async def test_a_customer_moves_under_load_and_all_of_it_works_there(tmp_path: Path) -> None:
    async with cells(tmp_path) as both, Receiver() as receiver, Fleet(both.broker.port) as fleet:
        await prepare(both, receiver)
        link = secret_of(await both.a.run("connections", "reauthorize", "sink"))
        stopping = asyncio.Event()
        untimed = Untimed(both.broker.port)
        load = [
            asyncio.create_task(fleet.publish_until(stopping, rate=200)),
            asyncio.create_task(untimed.run(stopping)),
        ]
        await both.sink_reaches(200)
        assert (await both.a.ledger())[1] > 0

        await both.move(both.a, both.b)

        there = len(await both.delivered())
        await both.sink_reaches(there + 300)
        await stays_away(both.a)
        stopping.set()
        await asyncio.gather(*load)
        await both.sink_reaches(len(fleet.acknowledged))
        assert await both.delivered() == fleet.acknowledged
        await untimed_come(both, len(untimed.values))
        assert await untimed_at(both.b) == sorted(untimed.values)

        await holds(both)
        answers = {
            cell.name: (
                await asyncio.to_thread(httpx.get, f"http://127.0.0.1:{cell.daemon.port}/reauthorize/{link}")
            )
            for cell in (both.a, both.b)
        }
        assert answers["b"].status_code == 200 and "sink" in answers["b"].text
        assert answers["a"].status_code in (404, 410)
        await told_together(both)
        await retained_only_by(both, "b")
        before = len(receiver.taken)
        await both.b.run("connections", "pause", "sink")
        await wait_until(lambda: len(receiver.taken) > before, seconds=20, what="the webhook is called")
        assert receiver.taken[-1].data["connection"] == "sink"


async def prepare(both: Cells, receiver: Receiver) -> None:
    await both.a.run("webhooks", "create", receiver.url, "--customer", CUSTOMER, "--json")


async def stays_away(cell: Cell) -> None:
    """Its file lists the customer and declares its connection still: neither comes back."""
    assert await cell.daemon.stop() == 0
    cell.daemon.start()
    await cell.daemon.ready(120)
    refused = "customer 'acme' has moved to another gateway"
    await wait_until(lambda: refused in cell.daemon.log, seconds=30, what="the declaration is refused")
    assert await cell.value("select count(*) from connection") == 0
    filters = await cell.fetch("select filter from ingest_subscription")
    assert not any(row["filter"].startswith(CUSTOMER) for row in filters)
    assert any(row["filter"].startswith("globex") for row in filters)


async def told_together(both: Cells) -> None:
    """`fieldgate cells`, and the maps of a router."""
    entries = []
    for cell in (both.a, both.b):
        made = await cell.run("token", "create", "--role", "viewer", "--name", "over-cells")
        (both.directory / f"{cell.name}.token").write_text(made.split()[-1])
        entries.append(
            {
                "name": cell.name,
                "url": f"http://127.0.0.1:{cell.daemon.port}",
                "token_file": f"{cell.name}.token",
            }
        )
    file = both.directory / "cells.yaml"
    file.write_text(json.dumps({"cells": entries}))
    shown = json.loads(await both.a.run_bare("cells", "show", str(file), "--json"))
    first, second = shown["cells"]
    assert first["fault"] is None and second["fault"] is None, shown
    assert first["connections"] == {} and first["credits"]["posted"] == 0
    assert second["connections"] == {"active": 1} and second["credits"]["posted"] > 0
    await both.a.run_bare("cells", "router", str(file), "--out", str(both.directory / "router"))
    assert (both.directory / "router" / "customers.map").read_text() == "acme b\n"
    assert (both.directory / "router" / "connections.map").read_text() == "sink b\n"


async def retained_only_by(both: Cells, name: str) -> None:
    """The broker keeps the connection's status of the one cell, and not of the other."""

    async def is_so() -> bool:
        found = set()
        async with aiomqtt.Client(
            "127.0.0.1", both.broker.port, protocol=aiomqtt.ProtocolVersion.V5
        ) as client:
            await client.subscribe(f"fieldgate/+/customers/{CUSTOMER}/connections/sink/status", qos=1)
            await client.subscribe("end", qos=1)
            await client.publish("end", b"", qos=1)
            async for message in client.messages:
                if str(message.topic) == "end":
                    return found == {name}
                if message.retain:
                    found.add(str(message.topic).split("/")[1])
        raise AssertionError

    await wait_until(is_so, seconds=40, what=f"only cell {name} retains the status", every=0.5)


async def untimed_come(both: Cells, count: int) -> None:
    async def have() -> bool:
        return len(await untimed_at(both.b)) >= count

    await wait_until(have, seconds=30, what="untimed samples are stored")


async def holds(both: Cells) -> None:
    """Credits are right on both sides, and nothing of the customer is left at the source."""
    held, posted, wrong = await both.a.ledger()
    assert (held, posted, wrong) == (0, 0, [])
    held, posted, wrong = await both.b.ledger()
    assert held == 0 and posted > 0 and wrong == []
    for table in (
        "connection",
        "telemetry",
        "device",
        "stream",
        "credential",
        "webhook_endpoint",
        "delivery",
    ):
        assert await both.a.value(f"select count(*) from {table}") == 0, table
    for cell in (both.a, both.b):
        assert await cell.value("select count(*) from dead_letter") == 0


async def stage(cell: Cell) -> str | None:
    found = json.loads(await cell.run("customer", "list", "--json"))
    return found[0]["stage"] if found else None


async def cancelled_at_once(a: Cell, b: Cell) -> None:
    """Before anything was taken away."""
    code = await b.run("customer", "expect", CUSTOMER)
    with pytest.raises(CommandFailed, match="cancel there first"):
        await b.run("customer", "cancel", CUSTOMER)
    cancelled = await a.run("customer", "cancel", CUSTOMER, "--expected", code)
    await b.run("customer", "cancel", CUSTOMER, "--cancelled", cancelled, "--discard-samples")
    assert (await stage(a), await stage(b)) == (None, "gone")


async def capacity(cell: Cell, credits: int) -> None:
    content = json.loads(cell.daemon._path.read_text())
    content["credits"] = {"capacity": credits}
    cell.daemon._path.write_text(json.dumps(content))


async def test_each_step_can_be_done_again_and_a_move_undone(tmp_path: Path) -> None:
    async with cells(tmp_path) as both, Fleet(both.broker.port) as fleet:
        a, b, key = both.a, both.b, ("--key-file", str(both.key))
        stopping = asyncio.Event()
        load = asyncio.create_task(fleet.publish_until(stopping, rate=100))
        await both.sink_reaches(50)

        await cancelled_at_once(a, b)

        # interrupted in the middle of the export, and refused for a code that is none and for want of credits
        code = await b.run("customer", "expect", CUSTOMER)
        assert await b.run("customer", "expect", CUSTOMER) == code
        leave = ("customer", "export", CUSTOMER, str(both.archive), *key, "--expected")
        with pytest.raises(CommandFailed, match="is not what"):
            await a.run(*leave, code[:-1] + ("0" if code[-1] != "0" else "1"))
        killed = await a.spawn(*leave, code)

        async def leaves() -> bool:
            return await a.value("select count(*) from customer_move where state = 'leaving'") == 1

        await wait_until(leaves, seconds=30, what="it is about to leave", every=0.02)
        killed.kill()
        await killed.communicate()
        await a.daemon.kill()
        a.daemon.start()
        await a.run(*leave, code)
        await a.run(*leave, code)
        with pytest.raises(CommandFailed, match="is not what"):
            await a.run("customer", "forget", CUSTOMER, "--arrived", code, "--yes")
        await capacity(b, 0)
        with pytest.raises(CommandFailed, match="credits"):
            await b.run("customer", "import", str(both.archive), *key)
        assert await b.value("select count(*) from connection") == 0
        await capacity(b, 100)
        arrived = await b.run("customer", "import", str(both.archive), *key)
        assert await b.run("customer", "import", str(both.archive), *key) == arrived
        await both.sink_reaches(len(await both.delivered()) + 50)

        # back to where it is kept still, and forgotten at the other
        await both.move(b, a)
        await both.sink_reaches(len(await both.delivered()) + 50)

        # it leaves, and comes back without having arrived
        code = await b.run("customer", "expect", CUSTOMER)
        await a.run(*leave, code)
        assert (await a.ledger())[:2] == (0, 0)
        code = await a.run("customer", "expect", CUSTOMER)
        await b.run(*leave, code)
        arrived = await a.run("customer", "import", str(both.archive), *key)
        await b.run("customer", "forget", CUSTOMER, "--arrived", arrived, "--yes")
        assert (await stage(a), await stage(b)) == ("arrived", "gone")

        stopping.set()
        await load
        await both.sink_reaches(len(fleet.acknowledged))
        assert await both.delivered() == fleet.acknowledged
        held, posted, wrong = await a.ledger()
        assert held == 0 and posted > 0 and wrong == []
        assert (await b.ledger()) == (0, 0, [])


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_customer_moves_under_500_messages_a_second_and_kills(tmp_path: Path) -> None:
    """There and back, while gateways and commands are killed."""
    seed = size("SEED", random.randrange(1 << 30))
    chance = random.Random(seed)
    print(f"FAULT_SEED={seed}")
    async with cells(tmp_path) as both, Fleet(both.broker.port, devices=100) as fleet:
        stopping = asyncio.Event()
        load = asyncio.create_task(fleet.publish_until(stopping, rate=size("RATE", 500)))
        await both.sink_reaches(2_000)
        kills = size("KILLS", 5)
        killing = asyncio.create_task(kill_now_and_then(both, chance, kills))
        for source, target in ((both.a, both.b), (both.b, both.a)):
            code = await until_done(target, chance, "customer", "expect", CUSTOMER)
            key = ("--key-file", str(both.key))
            await until_done(
                source, chance, "customer", "export", CUSTOMER, str(both.archive), "--expected", code, *key
            )
            arrived = await until_done(target, chance, "customer", "import", str(both.archive), *key)
            await until_done(source, chance, "customer", "forget", CUSTOMER, "--arrived", arrived, "--yes")
        await killing
        stopping.set()
        await load
        await both.sink_reaches(len(fleet.acknowledged), seconds=300)
        assert await both.delivered() == fleet.acknowledged
        held, posted, wrong = await both.a.ledger()
        assert held == 0 and posted > 0 and wrong == []
        assert (await both.b.ledger()) == (0, 0, [])
        print(f"{len(fleet.acknowledged)} messages, {kills} gateways killed, 0 lost, 0 twice")


async def kill_now_and_then(both: Cells, chance: random.Random, kills: int) -> None:
    for number in range(kills):
        await asyncio.sleep(chance.uniform(1, 6))
        cell = (both.a, both.b)[number % 2]
        await cell.daemon.kill()
        cell.daemon.start()
        await cell.daemon.ready(120)


async def until_done(cell: Cell, chance: random.Random, *arguments: str) -> str:
    """The first try is killed somewhere; what a gateway that is away makes of the others is tried again."""
    first = await cell.spawn(*arguments)
    try:
        async with asyncio.timeout(chance.uniform(0.5, 4)):
            out, _ = await first.communicate()
            if first.returncode == 0:
                return out.decode().strip()
    except TimeoutError:
        first.kill()
        await first.wait()
    for _ in range(20):
        try:
            return await cell.run(*arguments)
        except CommandFailed as error:
            refused = error
    raise refused
