"""What Fieldgate needs of a broker, one check for each need. A check returns what it saw; what a broker cannot
do is a result (`Not`), and only what nobody foresaw is an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import mqtt5

from benchmarks.servers import wait_until
from tests.interop.adapters import Broker
from tests.interop.client import Client, Refused

LONG = 3600
QUEUED = 200
SESSION_SECONDS = 8.0
"""How old a session is before its broker is killed: real ones are older than what a broker takes to save them."""
NODE_SECONDS = 90.0
"""How long nothing may come of a cluster that lost a node. RabbitMQ 4.3 holds what was in flight to a session of
that node for `consumer_disconnected_timeout`, a minute by default: the node may only be out of reach.
"""


class Not(Exception):
    """The broker does not do this; the text says what it did."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """`required`: without it Fieldgate loses or cannot work."""

    name: str
    title: str
    required: bool
    run: Callable[[Broker], Awaitable[str]]


CHECKS: list[Check] = []


def check(title: str, *, required: bool = True):  # type: ignore[no-untyped-def]
    def add(run: Callable[[Broker], Awaitable[str]]) -> Callable[[Broker], Awaitable[str]]:
        CHECKS.append(Check(name=run.__name__, title=title, required=required, run=run))
        return run

    return add


def payloads(count: int, since: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(since, since + count)]


def need(holds: object, said: str) -> None:
    if not holds:
        raise Not(said)


@asynccontextmanager
async def client(broker: Broker, name: str = "", **how: object) -> AsyncIterator[Client]:
    made = await Client(broker.port, name or f"c{secrets.token_hex(6)}").connect(**how)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        await made.abort()


async def session_left(broker: Broker, name: str, *filters: str) -> None:
    """A persistent session with these subscriptions, and nobody there. Made as the gateway makes its own,
    without a clean start: Mosquitto 2.0.11 saves no session that began with one.
    """
    made = await Client(broker.port, name).connect(clean=False, expiry=LONG)
    await made.subscribe(*filters)
    await made.leave()


async def give(broker: Broker, topic: str, *what: bytes, **how: object) -> None:
    async with client(broker) as device:
        await device.publish(topic, *what, **how)  # type: ignore[arg-type]


def unique(word: str) -> str:
    return f"interop/{word}/{secrets.token_hex(4)}"


def missing(got: list[bytes], wanted: list[bytes]) -> int:
    return len(set(wanted) - set(got))


@check("A session that is away is kept, with what comes meanwhile")
async def persistent_session(broker: Broker) -> str:
    topic, name = unique("session"), f"s{secrets.token_hex(6)}"
    await session_left(broker, name, topic)
    await give(broker, topic, *payloads(20))
    async with client(broker, name, clean=False, expiry=LONG) as back:
        need(back.connack and back.connack.session_present, "CONNACK without session present")
        back.auto()
        got = await back.messages(20)
        need(not missing(got, payloads(20)), f"{missing(got, payloads(20))} of 20 did not come")
        await back.ping()
    return "20 of 20"


@check("What was not acknowledged comes again at the next connection")
async def redelivery(broker: Broker) -> str:
    topic, name = unique("again"), f"s{secrets.token_hex(6)}"
    async with client(broker, name, clean=False, expiry=LONG) as one:
        await one.subscribe(topic)
        await give(broker, topic, *payloads(10))
        need(await one.messages(10, 5), "no message came")  # HiveMQ CE may want acknowledgements for some
        done = one.received[:4]
        for packet in done:
            one.ack(packet)
        await one.ping()
    async with client(broker, name, clean=False, expiry=LONG) as two:
        two.auto()
        left = 10 - len(done)
        await two.messages(left)
        got = await two.quiet()
        lost = missing(got, payloads(left, len(done)))
        need(not lost, f"{lost} of {left} did not come again")
        flagged = sum(packet.duplicate for packet in two.received)
        again = sum(payload in payloads(len(done)) for payload in got)
        return f"{left} of {left}, {flagged} with DUP" + (
            f"; {again} that were acknowledged, too" if again else ""
        )


@check("Acknowledged once, it does not come again")
async def acknowledged_is_gone(broker: Broker) -> str:
    topic, name = unique("gone"), f"s{secrets.token_hex(6)}"
    async with client(broker, name, clean=False, expiry=LONG) as one:
        await one.subscribe(topic)
        one.auto()
        await give(broker, topic, *payloads(100))
        need(len(await one.messages(100)) == 100, "the messages did not come")
        await one.ping()
    async with client(broker, name, clean=False, expiry=LONG) as two:
        got = await two.quiet()
        need(not got, f"{len(got)} came again")
    return "none of 100"


@check("No more than the receive maximum is in flight")
async def receive_maximum(broker: Broker) -> str:
    topic = unique("window")
    async with client(broker, receive_max=5) as one:
        await one.subscribe(topic)
        await give(broker, topic, *payloads(20))
        got = await one.quiet()
        need(len(got) <= 5, f"{len(got)} in flight where 5 were allowed")
        count = len(got)
        one.auto()
        need(len(set(await one.messages(20))) == 20, f"after the acknowledgements {len(one.received)} of 20")
    return f"{count} of 5"


@check("How many it sends without an acknowledgement, of 20,000", required=False)
async def window(broker: Broker) -> str:
    topic, name = unique("wide"), f"s{secrets.token_hex(6)}"
    await session_left(broker, name, topic)
    async with client(broker) as device:
        for start in range(0, 20_000, 500):
            await device.publish(topic, *payloads(500, start))
    async with client(broker, name, clean=False, expiry=LONG) as one:
        await one.messages(20_000, 5)
        got = await one.quiet()
        first = len(got)
        one.auto()
        await one.messages(20_000)
        lost = missing([packet.payload for packet in one.received], payloads(20_000))
        need(not lost, f"{first:,}; {lost:,} of the queue never came")
    return f"{first:,}"


@check("Messages of one topic keep their order")
async def order(broker: Broker) -> str:
    topic = unique("order")
    async with client(broker) as one:
        await one.subscribe(topic)
        one.auto()
        async with client(broker) as device:
            await device.publish(topic, *payloads(1000))
        got = await one.messages(1000)
        need(got == payloads(1000), f"{len(got)} came, not all in order")
    return "1,000 of 1,000"


@check("Retained documents are kept, given to who comes, and emptied")
async def retained(broker: Broker) -> str:
    topic = unique("retained")
    await give(broker, topic, b"state", retain=True)
    async with client(broker) as one:
        await one.subscribe(topic)
        got = await one.messages(1, 5)
        need(got == [b"state"] and one.received[0].retain, f"{got}")
        # while it is there: RabbitMQ refuses what meets a subscriber that leaves
        await give(broker, topic, b"", retain=True)
    async with client(broker) as two:
        await two.subscribe(topic)
        got = await two.quiet()
        need(not [payload for payload in got if payload], "an empty message did not remove it")
    return "yes"


@check("A subscription that is renewed brings no retained message a second time", required=False)
async def retain_handling(broker: Broker) -> str:
    topic = unique("handling")
    await give(broker, topic, b"state", retain=True)
    async with client(broker) as one:
        await one.subscribe(topic)
        need(len(await one.messages(1, 5)) == 1, "the retained message did not come at all")
        await one.subscribe(topic)
        got = await one.quiet()
        need(len(got) == 1, f"it came {len(got)} times")
    return "yes"


@check("The last will of a lost connection is published, retained")
async def will(broker: Broker) -> str:
    topic = unique("will")
    last = mqtt5.Will(topic, payload=b"lost", qos=mqtt5.QoS.AT_LEAST_ONCE, retain=True)
    async with client(broker) as watching:
        await watching.subscribe(topic)
        dying = await Client(broker.port, f"w{secrets.token_hex(6)}").connect(will=last)
        await dying.abort()
        got = await watching.messages(1, 10)
        need(got == [b"lost"], f"{got}")
    async with client(broker) as later:
        await later.subscribe(topic)
        need(await later.messages(1, 5) == [b"lost"], "published, and not retained")
    return "yes"


@check("An expired message is not delivered, one behind it is", required=False)
async def expiry(broker: Broker) -> str:
    topic, name = unique("expiry"), f"s{secrets.token_hex(6)}"
    await session_left(broker, name, topic)
    await give(broker, topic, b"short", expiry=1)
    await give(broker, topic, b"long", expiry=3600)
    await asyncio.sleep(2.5)
    async with client(broker, name, clean=False, expiry=LONG) as one:
        await one.messages(1, 10)
        got = await one.quiet()
        need(b"long" in got, f"the one that is not expired did not come: {got}")
        need(got == [b"long"], "the expired one came, too")
    return "yes"


@check("A filter that is subscribed again keeps its queue")
async def renewed(broker: Broker) -> str:
    topic, name = unique("renewed"), f"s{secrets.token_hex(6)}"
    await session_left(broker, name, topic)
    await give(broker, topic, *payloads(50))
    async with client(broker, name, clean=False, expiry=LONG) as one:
        await one.subscribe(topic)
        one.auto()
        await give(broker, topic, *payloads(50, 50))
        await one.messages(100)
        got = await one.quiet()
        need(not missing(got, payloads(100)), f"{missing(got, payloads(100))} of 100 did not come")
        doubled = len(got) - len(set(got))
    return "100 of 100" + (f", {doubled} twice" if doubled else "")


@check("A message of 1 MB passes, and the session goes on")
async def large(broker: Broker) -> str:
    topic = unique("large")
    async with client(broker) as one:
        await one.subscribe(topic)
        one.auto()
        try:
            await give(broker, topic, b"x" * (1 << 20))
        except Refused as error:
            await give(broker, topic, b"after")
            got = await one.messages(1)
            need(got == [b"after"], "refused, and what follows is lost")
            raise Not(f"refused: {error}") from None
        await give(broker, topic, b"after")
        got = await one.messages(2)
        need([len(payload) for payload in got] == [1 << 20, 5], f"{[len(payload) for payload in got]}")
    return "yes"


@check("Who takes a session over has its queue, and the other one is told")
async def take_over(broker: Broker) -> str:
    topic, name = unique("takeover"), f"s{secrets.token_hex(6)}"
    async with client(broker, name, clean=False, expiry=LONG) as one:
        await one.subscribe(topic)
        await give(broker, topic, *payloads(10))
        await one.messages(10)
        async with client(broker, name, clean=False, expiry=LONG) as two:
            need(two.connack and two.connack.session_present, "CONNACK without session present")
            got = await two.messages(10)
            need(not missing(got, payloads(10)), f"{missing(got, payloads(10))} of 10 did not come")
            await one.until(one.ended.is_set, "the first is closed", 10)
            return f"yes ({one.goodbye or 'closed without a word'})"


@check("Subscription identifiers: overlapping filters can be told apart", required=False)
async def identifiers(broker: Broker) -> str:
    root = unique("ids")
    async with client(broker) as one:
        connack = one.connack
        need(connack and connack.subscription_id_available, "the broker says that it has none")
        await one.subscribe(f"{root}/+", identifier=1)
        await one.subscribe(f"{root}/#", identifier=2)
        await give(broker, f"{root}/a", b"x")
        await one.messages(1)
        await one.quiet()
        ids = sorted(tuple(packet.subscription_ids or ()) for packet in one.received)
        told = sorted(number for some in ids for number in some) == [1, 2]
        need(told, f"{len(ids)} copies with the identifiers {[list(some) for some in ids]}")
    return "one copy" if len(ids) == 1 else "a copy for each"


@check("Two sessions with filters that do not overlap get what is theirs")
async def partitions(broker: Broker) -> str:
    root = unique("parts")
    async with client(broker) as one, client(broker) as two:
        await one.subscribe(f"{root}/a/+", f"{root}/b/+")
        await two.subscribe(f"{root}/c/+")
        one.auto()
        two.auto()
        for customer in "abc":
            await give(broker, f"{root}/{customer}/1", *payloads(50))
        need(len(await one.messages(100)) == 100 and len(await two.messages(50)) == 50, "not all came")
        await one.quiet(0.3)
        need(len(one.received) == 100 and len(two.received) == 50, "more came than was published")
    return "yes"


@check("A shared subscription divides what comes ($share; Fieldgate uses none)", required=False)
async def shared(broker: Broker) -> str:
    topic = unique("shared")
    async with client(broker) as one, client(broker) as two:
        connack = one.connack
        need(connack and connack.shared_subscription_available, "the broker says that it has none")
        for each in (one, two):
            await each.subscribe(f"$share/g/{topic}", handling=0)
            each.auto()
        await give(broker, topic, *payloads(100))
        await one.until(lambda: len(one.received) + len(two.received) >= 50, "messages")
        await one.quiet()
        await two.quiet()
        got = len(one.received) + len(two.received)
        need(got == 100, f"{got} of 100")
        return f"{len(one.received)} and {len(two.received)}"


async def _survives(broker: Broker, number: signal.Signals, *, age: float = 0.0, calm: float = 0.0) -> str:
    """`age`: of the session when messages come for it; `calm`: the time from their acknowledgement on."""
    topic, name, kept = unique("restart"), f"s{secrets.token_hex(6)}", unique("kept")
    await session_left(broker, name, topic)
    if age:
        await asyncio.sleep(age)
    await give(broker, kept, b"state", retain=True)
    await give(broker, topic, *payloads(QUEUED))
    if calm:
        await asyncio.sleep(calm)
    await broker.stop(number)
    await broker.start()
    async with client(broker, name, clean=False, expiry=LONG) as back:
        back.auto()
        need(back.connack and back.connack.session_present, "the session is gone, and its queue with it")
        await back.messages(QUEUED, 40)
        got = await back.quiet()
        lost = missing(got, payloads(QUEUED))
        need(not lost, f"{lost} of {QUEUED} acknowledged messages are lost")
    async with client(broker) as later:
        await later.subscribe(kept)
        held = await later.messages(1, 5)
    return f"{QUEUED} of {QUEUED}, retained documents {'too' if held else 'not'}"


@check("Stopped in order (SIGTERM) and started: session and queue are there")
async def stopped(broker: Broker) -> str:
    return await _survives(broker, signal.SIGTERM)


@check("SIGKILL right after the acknowledgement, and started: what was acknowledged is there")
async def killed(broker: Broker) -> str:
    return await _survives(broker, signal.SIGKILL, age=SESSION_SECONDS)


@check("SIGKILL ten seconds after the acknowledgement")
async def killed_later(broker: Broker) -> str:
    return await _survives(broker, signal.SIGKILL, calm=10)


@check(
    "Of several nodes that with the session is killed: another one has session, queue and what was in flight"
)
async def node_killed(broker: Broker) -> str:
    need(broker.nodes > 1, "one node")
    away, live = (f"s{secrets.token_hex(6)}" for _ in range(2))
    queue, flight = unique("node"), unique("flight")
    await session_left(broker, away, queue)
    await give(broker, queue, *payloads(QUEUED))
    async with client(broker, live, clean=False, expiry=LONG) as one:
        await one.subscribe(flight)
        await give(broker, flight, *payloads(QUEUED))
        need(len(await one.messages(QUEUED)) == QUEUED, "the messages did not come")
        await broker.stop_node(0, signal.SIGKILL)
    killed = time.monotonic()
    try:
        port = await broker.another(0)
        await _kept(port, away, "queued")
        await _kept(port, live, "in flight")
        seconds = time.monotonic() - killed
    finally:
        await broker.start_node(0)
    return f"{QUEUED} of {QUEUED} each, what was in flight within {seconds:.0f} s"


async def _kept(port: int, name: str, word: str) -> None:
    """The session is at this node, too, and all of its messages. Raises Not."""
    entered: list[Client] = []

    async def resumed() -> bool:
        with contextlib.suppress(OSError, Refused, TimeoutError):
            entered.append(await Client(port, name).connect(clean=False, expiry=LONG))
        return bool(entered)

    await wait_until(resumed, seconds=60, what="another node takes the session")
    (back,) = entered
    try:
        back.auto()
        need(back.connack and back.connack.session_present, "another node does not know the session")
        await back.messages(QUEUED, NODE_SECONDS)
        lost = missing(await back.quiet(), payloads(QUEUED))
        need(not lost, f"{lost} of {QUEUED} acknowledged messages that were {word} are lost")
    finally:
        await back.abort()
