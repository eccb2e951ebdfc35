"""Days without an endpoint, on a simulated clock: everything delivered, in order for each connection, nothing
twice with the same id unmarked.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from itertools import groupby

from standardwebhooks.webhooks import Webhook

from gateway.events.webhooks import WebhookSender
from gateway.model.webhook import Disabled
from gateway.store import outbox
from gateway.store.pool import Database
from tests.fixtures.told import append, numbered
from tests.fixtures.webhook_receiver import CUT, Answer, Received, Receiver
from tests.fixtures.webhook_rig import SimulatedClock, next_due, pending, sending, service, settled

NAMES = ("one", "two", "three")


class Numbers:
    """The next number of each connection's events."""

    def __init__(self) -> None:
        self._next = dict.fromkeys(NAMES, 0)

    def event(self, name: str) -> int:
        self._next[name] += 1
        return self._next[name] - 1

    def written(self, name: str) -> list[int]:
        return list(range(self._next[name]))


async def live(
    database: Database,
    worker: WebhookSender,
    clock: SimulatedClock,
    numbers: Numbers,
    *,
    until: timedelta,
    events_until: timedelta,
) -> None:
    """Lets time pass, attempt by attempt; each connection writes an event every seven hours."""
    write_at = clock.now
    while clock.passed < until:
        await settled(database, worker, clock.now)
        wake_at = [write_at] if clock.passed <= events_until else []
        due = await next_due(database)
        if due is not None:
            wake_at.append(due)
        if not wake_at:
            return
        clock.now = max(clock.now, min(wake_at))
        if clock.now >= write_at and clock.passed <= events_until:
            await append(database, *(numbered(numbers.event(name), connection=name) for name in NAMES))
            write_at = clock.now + timedelta(hours=7)


def firsts(receiver: Receiver, name: str) -> Iterator[int]:
    seen = set[str]()
    for one in receiver.taken:
        if one.data["connection"] == name and one.id not in seen:
            seen.add(one.id)
            yield one.data["number"]


def assert_marked(received: list[Received]) -> None:
    """Each time that an id comes, its attempt is higher: nothing comes twice unmarked."""
    for _, same in groupby(sorted(received, key=lambda one: one.id), key=lambda one: one.id):
        attempts = [one.attempt for one in same]
        assert attempts == sorted(set(attempts))
        assert attempts.count(1) <= 1


async def test_an_outage_of_72_hours(database: Database) -> None:
    """An outage that begins as the first event is written; before and after it some answers are lost on the
    way.
    """
    chance = random.Random(72)
    clock, numbers = SimulatedClock(), Numbers()
    began, ended = timedelta(0), timedelta(hours=72)

    def answer(one: Received) -> Answer:
        if began <= clock.passed < ended:
            return chance.choice((500, 503, 404, 429, 302))
        return CUT if chance.random() < 0.2 else 204

    async with Receiver(answer) as receiver, sending(database, now=clock, rand=chance.random) as worker:
        endpoint, secret = await service(database, now=clock).create(receiver.url, customer=None)
        await live(
            database, worker, clock, numbers, until=timedelta(hours=120), events_until=timedelta(hours=90)
        )
        assert await pending(database) == 0
        [after] = await service(database).endpoints(customer=None)
    assert (after.id, after.disabled_at) == (endpoint.id, None)
    assert clock.passed > timedelta(hours=75)
    assert len(numbers.written("one")) >= 13
    for name in NAMES:
        assert list(firsts(receiver, name)) == numbers.written(name)
    async with database.connection() as connection:
        assert (
            await connection.fetchval("select count(*) from webhook_delivery where state <> 'delivered'") == 0
        )
    assert_marked(receiver.received)
    lost = [one for one in receiver.received if one.answer == CUT]
    assert lost, "some answers were lost on the way"
    assert {one.id for one in lost} <= {one.id for one in receiver.taken}
    for one in receiver.received:
        timestamp = int(one.headers["webhook-timestamp"])
        signed = Webhook(secret).sign(
            one.id, clock.began.fromtimestamp(timestamp, clock.began.tzinfo), one.body.decode()
        )
        assert one.headers["webhook-signature"] == signed


async def test_five_days_without_success_disable_it_and_a_replay_brings_everything(
    database: Database,
) -> None:
    clock, numbers = SimulatedClock(), Numbers()
    async with Receiver(503) as receiver, sending(database, now=clock, rand=lambda: 0.5) as worker:
        keeper = service(database, now=clock)
        endpoint, _ = await keeper.create(receiver.url, customer=None)
        await live(database, worker, clock, numbers, until=timedelta(days=9), events_until=timedelta(days=6))
        [disabled] = await keeper.endpoints(customer=None)
        assert disabled.disabled_reason == Disabled.FAILING
        assert disabled.disabled_at is not None
        assert timedelta(days=5) <= disabled.disabled_at - clock.began < timedelta(days=6, hours=3)
        assert [
            event.data["reason"]
            for event in await outbox.read(database, customer=None, limit=1000)
            if event.type == "webhook.disabled"
        ] == ["failing"]
        attempts = len(receiver.received)
        await settled(database, worker, clock.now)
        assert len(receiver.received) == attempts
        receiver.answer = 204
        first = (await outbox.read(database, customer=None))[0]
        await keeper.replay(endpoint.id, customer=None, since=first.at)
        await live(database, worker, clock, numbers, until=timedelta(days=10), events_until=timedelta(0))
        assert await pending(database) == 0
    for name in NAMES:
        assert list(firsts(receiver, name)) == numbers.written(name)
    assert_marked(receiver.received)


async def test_an_endpoint_that_rested_gets_its_five_days_anew(database: Database) -> None:
    clock = SimulatedClock()
    async with Receiver(503) as receiver, sending(database, now=clock) as worker:
        await service(database).create(receiver.url, customer=None)
        await append(database, numbered(0))
        while (due := await next_due(database)) is not None or clock.passed == timedelta(0):
            clock.now = due or clock.now + timedelta(seconds=1)
            await settled(database, worker, clock.now)
        assert len(receiver.received) == 10
        clock.now += timedelta(days=20)
        await append(database, numbered(1))
        await settled(database, worker, clock.now)
        assert len(receiver.received) == 11
        [endpoint] = await service(database).endpoints(customer=None)
        assert endpoint.disabled_at is None
