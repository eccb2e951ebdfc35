"""A reload of sources and customers: what is written on the live connection, what the database knows before,
who decodes what meanwhile, and that nothing is lost, refused or reconnected by it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import mqtt5
import pytest

from benchmarks.servers import PATIENCE, Mosquitto, wait_until
from gateway import clock as gateway_clock
from gateway import metrics
from gateway.demo.publisher import Publisher
from gateway.ingest import Ingest, brokers, partition
from gateway.ingest.pipeline import Pipeline
from gateway.ingest.session import IngestSession
from gateway.ingest.session import connect as ingest_connect
from gateway.ingest.subscriptions import Subscription
from gateway.model.errors import BrokerRefused, StoreUnavailable
from gateway.model.subscriptions import copies_of
from gateway.model.topics import partition_of
from gateway.settings import BrokerSettings, Settings
from gateway.store import moving, sessions
from gateway.store.connections import register_customers
from gateway.store.pool import Database
from tests.fixtures.broker_script import Link, ScriptedBroker, publish

USUAL = {"topic": "{customer}/devices/{device}/telemetry"}
LINE = {"topic": "line/{device}/out", "customer": "acme"}
MILL = {"topic": "mill/{device}/out", "customer": "acme"}
ALL = {"topic": "{_}/{device}/out", "customer": "acme"}


def settings_of(
    url: str,
    sources: Sequence[object],
    customers: Sequence[str] = ("acme",),
    partitions: int = 1,
    lease: str = "15s",
) -> Settings:
    return Settings.model_validate({
        "broker": {"url": url, "partitions": partitions},
        "customers": list(customers),
        "security": {"encryption_keys": ["k" * 32]},
        "telemetry": {"sources": list(sources)},
        "sync": {"lease": lease},
    })  # fmt: skip


@asynccontextmanager
async def ingesting(database: Database, settings: Settings) -> AsyncIterator[Ingest]:
    await register_customers(database, settings.customers)
    ingest = Ingest(settings, database, replica="test")
    task = asyncio.create_task(ingest.run())
    try:
        yield ingest
    finally:
        await ingest.stop()
        task.cancel()
        await asyncio.wait({task})


async def nothing(link: Link) -> None: ...


async def up(ingest: Ingest) -> None:
    await wait_until(lambda: ingest.connected, seconds=20, what="every session is up")


async def on_record(database: Database) -> set[str]:
    async with database.connection() as connection:
        return {row["filter"] for row in await connection.fetch("select filter from ingest_subscription")}


async def devices(database: Database) -> set[str]:
    async with database.connection() as connection:
        return {
            row["device_id"] for row in await connection.fetch("select distinct device_id from telemetry")
        }


async def letters(database: Database) -> list[tuple[str, str]]:
    async with database.connection() as connection:
        rows = await connection.fetch("select topic, reason from dead_letter order by dead_letter_id")
    return [(row["topic"], row["reason"]) for row in rows]


def told(link: Link, since: int) -> list[object]:
    """What was subscribed (with the identifiers) and unsubscribed."""
    found: list[object] = []
    for packet in link.asked[since:]:
        if isinstance(packet, mqtt5.UnsubscribePacket):
            found.append(("-", *packet.patterns))
        else:
            found.append(("+", *(one.pattern for one in packet.topic_filters), packet.subscription_id))
    return found


async def test_what_is_new_is_subscribed_and_then_what_is_old_given_up(database: Database) -> None:
    async with ScriptedBroker(nothing).running() as broker:
        async with ingesting(database, settings_of(broker.url, [USUAL, LINE])) as ingest:
            link = await broker.link(0)
            await up(ingest)
            before = len(link.asked)
            await ingest.reload(settings_of(broker.url, [USUAL, MILL]))
            assert told(link, before) == [("+", "mill/+/out", None), ("-", "line/+/out")]
            assert await on_record(database) == {"+/devices/+/telemetry", "mill/+/out"}
            link.send(publish("mill/m1/out", b'{"a": 1}', 1))
            await link.acknowledged(1)
            await ingest.reload(settings_of(broker.url, [USUAL, MILL]))
            await ingest.reload(settings_of(broker.url, [MILL, {**USUAL, "drop": ["b"]}]))
            assert len(link.asked) == before + 2, "nothing else is to be subscribed"
            assert ingest.settings.telemetry.sources[1].drop == ("b",)
            link.send(publish("acme/devices/d/telemetry", b'{"a": 1, "b": 2}', 2))
            await link.acknowledged(1, 2)
        assert len(broker.links) == 1
    assert await devices(database) == {"m1", "d"}
    async with database.connection() as connection:
        assert not await connection.fetchval("select count(*) from telemetry where metrics ? 'b'")


async def test_quotas_are_put_in_force_on_the_session_that_lives(database: Database) -> None:
    """Of who has the partition alone too: with a second customer its messages do not wait any more."""

    def bounded(rate: float, *customers: str) -> Settings:
        plain = settings_of(broker.url, [USUAL], customers)
        return plain.model_copy(
            update={"quotas": plain.quotas.model_copy(update={"messages_per_second": rate})}
        )

    async with ScriptedBroker(nothing).running() as broker:
        async with ingesting(database, bounded(0.1, "acme")) as ingest:
            link = await broker.link(0)
            await up(ingest)
            asked = len(link.asked)
            for number in range(1, 8):  # six may come at once, a seventh is late
                link.send(publish("acme/devices/d/telemetry", b'{"a": %d}' % number, number))
            await link.acknowledged(*range(1, 8))
            await wait_until(lambda: metrics_paused() == 1, seconds=20, what="its reading stands")
            assert await letters(database) == []
            await register_customers(database, ["globex"])
            await ingest.reload(bounded(1000, "acme", "globex"))
            assert len(link.asked) == asked, "nothing is to be subscribed"
            assert ingest.settings.quotas.messages_per_second == 1000
            await wait_until(lambda: metrics_paused() == 0, seconds=30, what="it reads on")
            link.send(publish("acme/devices/d/telemetry", b'{"a": 8}', 8))
            await link.acknowledged(*range(1, 9))
        assert len(broker.links) == 1


def metrics_paused() -> float:
    return metrics.REGISTRY.get_sample_value("fieldgate_mqtt_reading_paused", {"partition": "0"}) or 0.0


async def test_filters_that_overlap_are_all_subscribed_again_in_their_order(database: Database) -> None:
    lists = {
        "old": ["+/+/out", "line/+/out", "mill/+/out"],
        "new": ["line/+/out", "+/devices/+/telemetry", "+/+/out"],
        "none": ["line/+/out"],
    }
    sources = {"old": [ALL, LINE, MILL], "new": [LINE, USUAL, ALL], "none": [LINE]}
    async with (
        ScriptedBroker(nothing).running() as broker,
        ingesting(database, settings_of(broker.url, sources["old"])) as ingest,
    ):
        link = await broker.link(0)
        await up(ingest)
        for name, stale in (("new", ["mill/+/out"]), ("none", ["+/+/out", "+/devices/+/telemetry"])):
            before = len(link.asked)
            await ingest.reload(settings_of(broker.url, sources[name]))
            copies = copies_of(lists[name])
            subscribed = (
                [("+", one, number) for one, number in copies.ids.items()]
                if copies
                else [("+", *lists[name], None)]
            )
            assert told(link, before) == [*subscribed, ("-", *stale)]


async def test_what_a_session_may_hold_is_on_record_before_it_does(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("the database is away")

    async with (
        ScriptedBroker(nothing).running() as broker,
        ingesting(database, settings_of(broker.url, [USUAL, LINE])) as ingest,
    ):
        link = await broker.link(0)
        await up(ingest)
        before = len(link.asked)
        with monkeypatch.context() as patched:
            patched.setattr(sessions, "remember_subscriptions", away)
            with pytest.raises(StoreUnavailable):
                await ingest.reload(settings_of(broker.url, [USUAL, MILL]))
        assert link.asked[before:] == [] and ingest.settings.telemetry.sources[1].topic == LINE["topic"]
        link.send(publish("line/l1/out", b'{"a": 1}', 1))
        await link.acknowledged(1)
        written: list[set[str]] = []
        remember = sessions.remember_subscriptions

        async def noted(database: Database, client: str, filters: Sequence[str], **where: Any) -> None:
            assert len(link.asked) == before + 2 * len(written)
            await remember(database, client, filters, **where)
            written.append(set(filters))

        monkeypatch.setattr(sessions, "remember_subscriptions", noted)
        await ingest.reload(settings_of(broker.url, [USUAL, MILL]))
        usual = "+/devices/+/telemetry"
        assert written == [{usual, "line/+/out", "mill/+/out"}, {usual, "mill/+/out"}]
        monkeypatch.setattr(sessions, "remember_subscriptions", remember)
    assert await letters(database) == []


@pytest.mark.parametrize("sources", [[USUAL, MILL], [USUAL, ALL, MILL]], ids=["apart", "overlapping"])
async def test_what_the_broker_refuses_changes_nothing(database: Database, sources: list[object]) -> None:
    async with ScriptedBroker(nothing).running() as broker:
        async with ingesting(database, settings_of(broker.url, [USUAL, LINE])) as ingest:
            link = await broker.link(0)
            await up(ingest)
            broker.refused = {"mill/+/out"}
            with pytest.raises(BrokerRefused, match=r"mill/\+/out \(NOT_AUTHORIZED\)"):
                await ingest.reload(settings_of(broker.url, sources, ["acme", "globex"]))
            assert told(link, 0)[-2:] == [
                ("+", "+/devices/+/telemetry", "line/+/out", None),
                ("-", *(["mill/+/out", "+/+/out"] if len(sources) == 3 else ["mill/+/out"])),
            ]
            assert await on_record(database) == {"+/devices/+/telemetry", "line/+/out"}
            link.send(
                publish("line/l1/out", b'{"a": 1}', 1),
                publish("globex/devices/g1/telemetry", b'{"a": 1}', 2),
            )
            await link.acknowledged(1, 2)
            assert ingest.settings.customers == ("acme",)
        assert len(broker.links) == 1
    assert await devices(database) == {"l1"}
    assert await letters(database) == [("globex/devices/g1/telemetry", "unknown_customer")]


async def test_what_was_sent_for_the_old_filters_is_taken_until_none_comes_any_more(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        ScriptedBroker(nothing).running() as broker,
        ingesting(database, settings_of(broker.url, [USUAL, LINE])) as ingest,
    ):
        link = await broker.link(0)
        await up(ingest)
        await ingest.reload(settings_of(broker.url, [USUAL, MILL]))
        link.send(publish("line/queued/out", b'{"a": 1}', 1), publish("mill/new/out", b'{"a": 1}', 2))
        await link.acknowledged(1, 2)
        await ingest.reload(settings_of(broker.url, [USUAL, ALL]))
        link.send(publish("line/later/out", b'{"a": 1}', 3))
        await link.acknowledged(1, 2, 3)
        await ingest.reload(settings_of(broker.url, [USUAL]))
        link.send(publish("line/last/out", b'{"a": 1}', 4), publish("nobody/s", b'{"a": 1}', 5))
        await link.acknowledged(1, 2, 3, 4, 5)
        assert await letters(database) == [("nobody/s", "unmatched_topic")]
        one = ingest._ours[0][0]
        clock = time.monotonic()
        monkeypatch.setattr(gateway_clock, "monotonic", lambda: clock + partition.LEFTOVER_SECONDS + 1)
        one.settle()
        assert not one.is_settled, "one came since"
        monkeypatch.setattr(gateway_clock, "monotonic", lambda: clock + 2 * partition.LEFTOVER_SECONDS + 2)
        one.settle()
        assert one.is_settled
        link.send(publish("line/too-late/out", b'{"a": 1}', 6))
        await link.acknowledged(1, 2, 3, 4, 5, 6)
        monkeypatch.undo()
    assert await devices(database) == {"queued", "new", "later", "last"}
    assert ("line/too-late/out", "unmatched_topic") in await letters(database)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_session_that_is_down_takes_them_at_its_next_connection(
    database: Database, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Also where the reload comes `after` the broker has granted the old ones, and before anybody knows."""
    gate, connect = asyncio.Event(), ingest_connect
    gate.set()

    async def gated(broker: BrokerSettings, subscription: Subscription, pipeline: Pipeline) -> IngestSession:
        if moment == "before":
            await gate.wait()
        session = await connect(broker, subscription, pipeline)
        await gate.wait()
        return session

    monkeypatch.setattr(brokers, "connect", gated)
    async with (
        ScriptedBroker(nothing).running() as broker,
        ingesting(database, settings_of(broker.url, [USUAL, LINE])) as ingest,
    ):
        link = await broker.link(0)
        await up(ingest)
        gate.clear()
        link.writer.transport.abort()
        await wait_until(lambda: not ingest.connected, seconds=10, what="the session is down")
        if moment == "after":
            await broker.link(1)
        await ingest.reload(settings_of(broker.url, [USUAL, MILL]))
        assert not ingest.connected, "the reload waited for the connection"
        gate.set()
        await up(ingest)
        last = broker.links[-1]
        assert told(last, 0)[:2] == [
            ("-", "line/+/out"),
            ("+", "+/devices/+/telemetry", "mill/+/out", None),
        ]
        last.send(publish("line/queued/out", b'{"a": 1}', 1), publish("mill/new/out", b'{"a": 1}', 2))
        await last.acknowledged(1, 2)
    assert await devices(database) == {"queued", "new"}
    assert await letters(database) == []


async def test_partitions_take_the_customers_that_come_and_let_go_those_that_leave(
    database: Database,
) -> None:
    names = [f"c{number}" for number in range(20)]
    halves = [[name for name in names if partition_of(name, 2) == one] for one in (0, 1)]
    stays, leaves, comes = halves[0][0], halves[0][1], halves[1][0]
    async with ScriptedBroker(nothing).running() as broker:
        first = settings_of(broker.url, [USUAL], [stays, leaves], partitions=2)
        async with ingesting(database, first) as ingest:
            await broker.link(1)
            await up(ingest)
            await register_customers(database, [comes])
            await ingest.reload(settings_of(broker.url, [USUAL], [stays, comes], partitions=2))
            assert len(broker.links) == 2
            changes = {
                pattern: link
                for link in broker.links
                for change in told(link, 0)
                if isinstance(change, tuple)
                for pattern in change
            }
            away, here = changes[f"{leaves}/devices/+/telemetry"], changes[f"{comes}/devices/+/telemetry"]
            assert away is not here and away.unsubscribed == [f"{leaves}/devices/+/telemetry"]
            away.send(
                publish(f"{leaves}/devices/queued/telemetry", b'{"a": 1}', 1),
                publish("c-unknown/devices/x/telemetry", b'{"a": 1}', 2),
            )
            here.send(publish(f"{comes}/devices/new/telemetry", b'{"a": 1}', 1))
            await away.acknowledged(1, 2)
            await here.acknowledged(1)
    assert await devices(database) == {"queued", "new"}
    assert await letters(database) == [("c-unknown/devices/x/telemetry", "unknown_customer")]


async def test_no_lease_waits_for_a_broker_that_is_slow_to_grant(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def never(_: IngestSession, filters: tuple[str, ...]) -> None:
        asked.set()
        await asyncio.Event().wait()

    async def lasts_until() -> datetime:
        async with database.connection() as connection:
            found: datetime = await connection.fetchval("select min(lease_until) from lease")
            return found

    monkeypatch.setattr(IngestSession, "subscribe", never)
    async with ScriptedBroker(nothing).running() as broker:
        settings = settings_of(broker.url, [USUAL], ["acme"], partitions=2, lease="3s")
        async with ingesting(database, settings) as ingest:
            await up(ingest)
            async with database.transaction() as connection:
                await moving.expect(connection, "globex", "m1", 1_000)
            await asyncio.wait_for(asked.wait(), 20 * PATIENCE)
            seen = await lasts_until()

            async def is_renewed() -> bool:
                return await lasts_until() > seen

            await wait_until(is_renewed, seconds=10, what="the leases are renewed")


FLOWS = [
    pytest.param(0, 0.0, id="as fast as it goes"),
    pytest.param(2_000, 0.5, id="2000 a second", marks=pytest.mark.soak),
]


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize(("rate", "pause"), FLOWS)
async def test_a_hundred_reloads_under_load_lose_nothing(
    database: Database, mosquitto: Mosquitto, rate: int, pause: float, overlapping: bool
) -> None:
    """Every message goes to a topic that both lists take, each by a filter that the other does not have."""
    more: list[object] = [{"topic": "{customer}/{_}/{device}/{_...}"}] if overlapping else []
    lists = [[USUAL, LINE, *more], [{"topic": "{customer}/{_}/{device}/telemetry"}, MILL, *more]]
    settings = [settings_of(mosquitto.url, each) for each in lists]
    reconnects = metrics.REGISTRY.get_sample_value("fieldgate_mqtt_reconnects_total") or 0
    publisher = Publisher(BrokerSettings(url=mosquitto.url), "flow")
    done = asyncio.Event()
    count = 0

    async def flow() -> None:
        nonlocal count
        base, started = time.time_ns() // 1000, time.monotonic()
        while not done.is_set():
            payload = json.dumps({"ts": base + count, "metrics": {"n": count}}).encode()
            await publisher.publish(f"acme/devices/d{count % 50}/telemetry", payload)
            count += 1
            if rate:
                await asyncio.sleep(max(0.0, started + count / rate - time.monotonic()))
            elif count % 20 == 0:
                await asyncio.sleep(0.001)

    async with ingesting(database, settings[0]) as ingest:
        await up(ingest)
        sessions = ingest._ours[0][0]._session
        tasks = [asyncio.create_task(publisher.run()), asyncio.create_task(flow())]
        for number in range(1, 101):
            await ingest.reload(settings[number % 2])
            await asyncio.sleep(pause)
        done.set()
        await tasks[1]
        assert await publisher.settled(60) and publisher.unheard_count == publisher.refused_count == 0

        async def all_are_stored() -> bool:
            async with database.connection() as connection:
                return bool(await connection.fetchval("select count(*) >= $1 from telemetry", count))

        await wait_until(all_are_stored, seconds=60, what=f"{count} samples are stored")
        assert ingest._ours[0][0]._session is sessions, "it connected again"
        tasks[0].cancel()
        await asyncio.wait(tasks)
    async with database.connection() as connection:
        assert await connection.fetchval("select count(*) from telemetry") == count
    assert count > 1000 and await letters(database) == []
    assert (metrics.REGISTRY.get_sample_value("fieldgate_mqtt_reconnects_total") or 0) == reconnects
