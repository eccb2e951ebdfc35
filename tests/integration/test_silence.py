"""Silence of devices over simulated hours: nobody is silent for our fault, and who has stopped is found."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.servers import Mosquitto, Postgres, wait_until
from gateway import clock, metrics
from gateway.events.backlog import Backlog
from gateway.ingest import Ingest, service
from gateway.ingest import hearing as hearing_module
from gateway.ingest.hearing import QUEUE_SECONDS, Hearing
from gateway.ingest.registry import Registry
from gateway.ingest.silence import SilenceWatch
from gateway.model.errors import StoreError
from gateway.model.sample import to_microseconds
from gateway.model.topics import partition_of
from gateway.store import silence as store
from gateway.store.migrate import migrate
from gateway.store.pool import Database
from gateway.store.telemetry import TelemetryStore
from tests.fixtures.devices_simulated import START, TICK, Simulation, settings_of, simulation
from tests.integration.test_ingest_brokers import publish, settings_for

__all__ = ["simulation"]

HOUR = 60
"""Ticks."""


async def sending(world: Simulation, ticks: int, every: dict[str, int], *, listens: bool = True) -> None:
    """Each device sends in every so many minutes."""
    for _ in range(ticks):
        minute = round(world.now / TICK) + 1
        sent = [device for device, period in every.items() if minute % period == 0]
        await world.tick(sent, listens=listens)


async def test_a_device_that_stops_is_silent_once_and_returns_once(simulation: Simulation) -> None:
    await simulation.known("a", "b")
    await sending(simulation, 2 * HOUR, {"a": 10, "b": 10})
    assert await simulation.events() == []
    assert await simulation.usual("a") == pytest.approx(600, rel=0.05)
    stopped = simulation.now
    await sending(simulation, 29, {"b": 10})
    assert await simulation.events() == []
    await sending(simulation, 60, {"b": 10})
    assert await simulation.events() == [("silent", "a")]
    assert (await simulation.state("a"))["silent_since"] == simulation.at(stopped)
    await sending(simulation, 30, {"a": 10, "b": 10})
    assert await simulation.events() == [("silent", "a"), ("returned", "a")]
    assert (await simulation.state("a"))["silent_since"] is None
    async with simulation.database.connection() as connection:
        [silent, returned] = await connection.fetch("select * from event order by position")
    assert silent["customer_id"] == "acme"
    assert silent["data"]["silent_after_seconds"] == pytest.approx(1800, rel=0.1)
    assert returned["data"]["silent_seconds"] >= 1800


@pytest.mark.parametrize("queue", [1_000_000, 3, 0], ids=["all_queued", "some_queued", "nothing_queued"])
async def test_in_an_outage_of_an_hour_nobody_is_silent_and_who_stopped_is_found_later(
    database: Database, queue: int
) -> None:
    """Whatever of it the broker kept: also where it dropped all that was sent meanwhile."""
    world = Simulation(database, queue=queue)
    await world.hear()
    fleet = {f"d{number}": number for number in range(1, 21)} | {"stops": 5}
    await world.known(*fleet)
    await sending(world, 3 * HOUR, fleet)
    await sending(world, 10, fleet, listens=False)
    stopped = {device: every for device, every in fleet.items() if device != "stops"}
    await sending(world, 50, stopped, listens=False)
    assert await world.events() == []
    await sending(world, 20, stopped)
    assert await world.events() in ([], [("silent", "stops")])
    await sending(world, HOUR, stopped)
    assert await world.events() == [("silent", "stops")]


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("queue", [150_000, 0], ids=["some_queued", "nothing_queued"])
async def test_an_hour_without_us_makes_none_of_100_000_devices_silent(
    database: Database, queue: int
) -> None:
    """They send every five minutes; one in a thousand stops meanwhile, and those are found (`DEVICES`: so many
    in all).
    """
    count = int(os.environ.get("DEVICES", "100000"))
    world = Simulation(database, queue=queue)
    await world.hear()
    fleet = {f"d{number}": 5 for number in range(count)}
    await world.known(*fleet)
    async with database.connection() as connection:
        await connection.execute("analyze device")
    await sending(world, 40, fleet)
    stopped = {device: every for device, every in fleet.items() if int(device[1:]) % 1000}
    gone = {("silent", device) for device in fleet.keys() - stopped.keys()}
    await sending(world, HOUR, stopped, listens=False)
    assert await world.events() == []
    await sending(world, 10, stopped)
    assert set(await world.events()) <= gone
    await sending(world, 30, stopped)
    told = await world.events()
    assert set(told) == gone and len(told) == len(gone)


async def test_outages_again_and_again_make_nobody_silent(simulation: Simulation) -> None:
    """Half of the time nobody listens; a device that stopped is found all the same."""
    fleet = {"often": 1, "rarely": 30, "stops": 10}
    await simulation.known(*fleet)
    await sending(simulation, 4 * HOUR, fleet)
    del fleet["stops"]
    for _ in range(6):
        await sending(simulation, 20, fleet, listens=False)
        await sending(simulation, 20, fleet)
    assert await simulation.events() == [("silent", "stops")]


async def test_what_comes_before_an_outage_is_found_does_not_count_it_again(simulation: Simulation) -> None:
    """Reading paused, and goes on: the first messages are stored before anybody has said that nobody
    listened.
    """
    await simulation.known("a")
    await sending(simulation, 2 * HOUR, {"a": 5})
    await sending(simulation, HOUR, {}, listens=False)
    simulation.listened = True  # the session was never down
    await sending(simulation, 1, {"a": 1})
    assert await simulation.usual("a") == pytest.approx(300, rel=0.3)
    await sending(simulation, 14, {})
    assert await simulation.events() == []
    await sending(simulation, 6, {})
    assert await simulation.events() == [("silent", "a")]


OVER = """insert into quota_excess (customer_id, quota, allowed, since, last_at, dead_letters, dropped, dropped_bytes,
          slowed_seconds) values ('acme', $1, 1, $2, $2, 0, 9, 9, 0)"""


@pytest.mark.parametrize("quota", ["messages_per_second", "bytes_per_second", "stored_bytes"])
async def test_what_a_customer_sends_over_its_quota_is_no_silence_of_its_devices(
    simulation: Simulation, quota: str
) -> None:
    """What they sent may be among what was refused: their silence counts from when that is over."""
    await simulation.known("a")
    await sending(simulation, 2 * HOUR, {"a": 10})
    async with simulation.database.connection() as connection:
        await connection.execute(OVER, quota, simulation.at(simulation.now))
    await sending(simulation, 3 * HOUR, {})
    assert await simulation.events() == []
    async with simulation.database.connection() as connection:
        await connection.execute("update quota_excess set ended_at = $1", simulation.at(simulation.now))
    await sending(simulation, 29, {})
    assert await simulation.events() == []
    await sending(simulation, 31, {})
    assert await simulation.events() == [("silent", "a")]


async def test_an_excess_between_two_looks_counts_too_and_one_of_another_kind_or_customer_does_not(
    simulation: Simulation,
) -> None:
    await simulation.known("a")
    await sending(simulation, 2 * HOUR, {"a": 10})
    began = simulation.now
    async with simulation.database.connection() as connection:
        await connection.execute(OVER, "bytes_per_second", simulation.at(began))
        await connection.execute("update quota_excess set ended_at = $1", simulation.at(began + 25 * 60))
    await sending(simulation, 54, {})
    assert await simulation.events() == []
    async with simulation.database.connection() as connection:
        await connection.execute(OVER, "devices", simulation.at(simulation.now))
        await connection.execute(OVER, "metrics_per_device", simulation.at(simulation.now))
        await connection.execute(OVER.replace("'acme'", "'globex'"), "bytes_per_second", simulation.at(began))
    await sending(simulation, 6, {})
    assert await simulation.events() == [("silent", "a")]


async def test_a_time_over_quota_teaches_nothing_of_how_often_a_device_sends(simulation: Simulation) -> None:
    """It sent as ever, and most of it was refused: what was taken came seldom."""
    await simulation.known("a")
    await sending(simulation, 4 * HOUR, {"a": 10})
    usual = await simulation.usual("a")
    async with simulation.database.connection() as connection:
        await connection.execute(OVER, "bytes_per_second", simulation.at(simulation.now))
    await sending(simulation, 6 * HOUR, {"a": 2 * HOUR})
    await sending(simulation, 1 * HOUR, {})
    async with simulation.database.connection() as connection:
        await connection.execute("update quota_excess set ended_at = $1", simulation.at(simulation.now))
    await sending(simulation, 10, {"a": 10})
    assert await simulation.usual("a") == usual
    await sending(simulation, 20, {"a": 10})
    assert await simulation.usual("a") == pytest.approx(600, rel=0.05)
    await sending(simulation, 2 * HOUR, {"a": 2 * HOUR})
    assert await simulation.usual("a") > 700, "where nothing was refused it is learned"


async def test_a_process_that_was_killed_loses_nobodys_last_message(simulation: Simulation) -> None:
    """What ingest had in memory is gone, and the samples are not: they are asked before anybody is silent."""
    await simulation.known("a")
    await sending(simulation, HOUR, {"a": 5})
    at = to_microseconds(simulation.at(simulation.now + 600))
    telemetry = TelemetryStore(simulation.database, register_customers=True)
    await telemetry.write([(("acme", "a", at), {"t": 1}, at)], ())
    await sending(simulation, 20, {})
    assert await simulation.events() == []
    await sending(simulation, 20, {})
    assert await simulation.events() == [("silent", "a")]


async def test_what_waits_in_memory_is_waited_for(simulation: Simulation) -> None:
    """More devices than a round writes: nobody is silent whose message was taken and is not told yet."""
    await simulation.known("a")
    await sending(simulation, HOUR, {"a": 5})
    simulation.receive("a", simulation.now + 300)
    simulation.now += 1200
    await simulation.hear()
    await simulation.look()
    assert await simulation.events() == []
    await simulation.write()
    await simulation.hear()
    await simulation.look()
    assert await simulation.events() == []


async def test_a_device_of_which_little_is_known_has_a_day(simulation: Simulation) -> None:
    await simulation.known("once", "booted")
    for second in range(5):  # says much when it starts, and then once an hour
        simulation.receive("booted", second / 4)
    simulation.receive("once", 1)
    await sending(simulation, 3 * HOUR, {"booted": 60})
    assert await simulation.events() == []
    await sending(simulation, 22 * HOUR, {"booted": 60})
    assert await simulation.events() == [("silent", "once")]


async def test_each_source_has_its_own_time(database: Database) -> None:
    world = Simulation(database)
    world.settings = settings_of(
        silent_after="10m",
        sources=[
            {"topic": "{customer}/devices/{device}/telemetry", "silent_after": "2h"},
            {"topic": "x/{customer}/{device}"},
        ],
    )
    await world.hear()
    await world.known("slow", "fast")
    await sending(world, 3 * HOUR, {"slow": 1, "fast": 1})
    async with database.connection() as connection:
        await connection.execute(
            "update device set source = 'x/{customer}/{device}' where device_id = 'fast'"
        )
    await sending(world, 100, {})
    assert await world.events() == [("silent", "fast")]
    await sending(world, 60, {})
    assert await world.events() == [("silent", "fast"), ("silent", "slow")]


@pytest.mark.parametrize("what", ["source", "customer"])
async def test_what_is_not_taken_any_more_is_not_silent_and_counts_anew_when_it_is(
    simulation: Simulation, what: str
) -> None:
    await simulation.known("a")
    await sending(simulation, HOUR, {"a": 1})
    before = simulation.settings
    simulation.settings = (
        settings_of(sources=[{"topic": "other/{customer}/{device}"}])
        if what == "source"
        else before.model_copy(update={"customers": ("globex",)})
    )
    await sending(simulation, 5 * HOUR, {})
    assert await simulation.events() == []
    simulation.settings = before
    await sending(simulation, 14, {})
    assert await simulation.events() == []
    await sending(simulation, 20, {})
    assert await simulation.events() == [("silent", "a")]


async def test_two_that_look_at_once_tell_it_once(simulation: Simulation) -> None:
    """Whatever becomes of the lease."""
    devices = [f"d{number}" for number in range(20)]
    await simulation.known(*devices)
    await sending(simulation, HOUR, dict.fromkeys(devices, 1))
    simulation.now += 3600
    for _ in range(60):
        simulation.now += TICK
        await simulation.hear()
    at = simulation.at(simulation.now)
    seen = [await store.due(simulation.database, at, 500) for _ in range(2)]
    for due in seen:  # both have read the same before one of them wrote
        await simulation.judge._look(due, simulation.judge._sources(), at)
    assert sorted(await simulation.events()) == sorted(("silent", device) for device in devices)


async def test_a_replica_with_one_partition_says_nothing_of_another(database: Database) -> None:
    world = Simulation(database)
    world.settings = world.settings.model_copy(
        update={"broker": world.settings.broker.model_copy(update={"partitions": 2})}
    )
    customers: dict[int, str] = {}
    for number in range(50):
        customers.setdefault(partition_of(f"c{number}", 2), f"c{number}")
    world.settings = world.settings.model_copy(update={"customers": tuple(customers.values())})
    for partition in (0, 1):
        await store.note(database, 2, partition, START, break_seconds=90)
    for customer in customers.values():
        await world.known("a", customer=customer)
    for minute in range(180):
        world.now += TICK
        seen = to_microseconds(world.at(world.now))
        if minute < 60:
            for customer in customers.values():
                world.registry.note([((customer, "a", seen), {"t": minute}, seen)], 0.0)
        await world.write()
        for partition in (0, 1):
            if partition == 0 or minute < 60:  # nobody holds the other one any more
                await store.note(database, 2, partition, world.at(world.now), break_seconds=90)
        await world.look()
    async with database.connection() as connection:
        rows = await connection.fetch("select customer_id from event")
    assert [row["customer_id"] for row in rows] == [customers[0]]


STEPS = st.lists(st.floats(1, 300), min_size=1, max_size=20)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_the_clock_of_a_partition_counts_what_was_listened_to(
    database: Database, steps: list[float]
) -> None:
    """Against a plain sum: a step of more than a break is none of it."""
    async with database.connection() as connection:
        await connection.execute("truncate heard")
    at, listened = START, 0.0
    first = await store.note(database, 1, 0, at, break_seconds=15)
    for step in steps:
        at += timedelta(seconds=step)
        listened += step if (at - first.until).total_seconds() and step <= 15 else 0.0
        heard = await store.note(database, 1, 0, at, break_seconds=15)
        assert heard.until == at
        assert (heard.until - heard.resumed_at).total_seconds() <= listened + 1e-3
        clock = (heard.until - first.until).total_seconds() - (heard.unheard - first.unheard)
        assert clock == pytest.approx(listened, abs=1e-3)


async def test_a_clock_that_begins_is_never_before_another(database: Database) -> None:
    """Customers move when the number of partitions changes: nobody has been listened to
    for longer by that.
    """
    await store.note(database, 1, 0, START, break_seconds=15)
    old = await store.note(database, 1, 0, START + timedelta(hours=1), break_seconds=15)
    new = await store.note(database, 2, 1, START + timedelta(hours=2), break_seconds=15)
    back = await store.note(database, 1, 0, START + timedelta(hours=3), break_seconds=15)
    assert (old.unheard, new.unheard, back.unheard) == (3600, 7200, 10800)


# What is usual between two messages


async def usual_after(world: Simulation, gaps: list[float], device: str = "a") -> float:
    """Each message is written by itself, but for those within five seconds."""
    written = world.now
    for gap in gaps:
        world.now += gap
        if world.now - written >= 5:
            await world.registry.flush()
            written = world.now
        world.receive(device, world.now)
    await world.write()
    return await world.usual(device)


@pytest.mark.parametrize("every", [0.5, 10, 600, 86400])
async def test_what_is_usual_is_learned_through_jitter(simulation: Simulation, every: float) -> None:
    await simulation.known("a")
    rand = random.Random(1)
    gaps = [every * rand.uniform(0.7, 1.3) for _ in range(200)]
    assert await usual_after(simulation, gaps) == pytest.approx(every, rel=0.35)


async def test_bursts_do_not_spoil_it(simulation: Simulation) -> None:
    """Ten messages in two seconds once an hour: a silence of half an hour is usual."""
    await simulation.known("a")
    assert await usual_after(simulation, [*[0.2] * 9, 3600] * 40) == pytest.approx(3600, rel=0.1)


async def test_a_backlog_does_not_spoil_it(simulation: Simulation) -> None:
    """A device that was away sends all it has measured at once."""
    await simulation.known("a")
    assert await usual_after(simulation, [600.0] * 40) == pytest.approx(600, rel=0.01)
    simulation.now += 6
    for number in range(1000):
        simulation.receive("a", simulation.now + number / 1000, sampled=number)
    simulation.now += 1
    await simulation.write()
    assert 400 < await simulation.usual("a") < 700
    assert await usual_after(simulation, [600.0] * 5) == pytest.approx(600, rel=0.01)


async def test_a_long_absence_moves_it_little_and_another_pace_is_learned(simulation: Simulation) -> None:
    await simulation.known("a")
    await usual_after(simulation, [10.0] * 100)
    assert await usual_after(simulation, [36000.0]) <= 12.6
    assert await usual_after(simulation, [10.0] * 5) == pytest.approx(10, rel=0.05)
    assert await usual_after(simulation, [30.0] * 10) == pytest.approx(30, rel=0.05)
    assert await usual_after(simulation, [10.0] * 30) == pytest.approx(10, rel=0.2)


async def test_time_in_which_nobody_listened_is_no_interval(simulation: Simulation) -> None:
    await simulation.known("a")
    await sending(simulation, 30, {"a": 5})
    await sending(simulation, 600, {}, listens=False)
    await sending(simulation, 10, {"a": 5})
    assert await simulation.usual("a") == pytest.approx(300, rel=0.25)


async def test_a_device_that_changes_its_pace_is_silent_twice_at_most(simulation: Simulation) -> None:
    await simulation.known("a")
    await sending(simulation, HOUR, {"a": 1})
    await sending(simulation, 12 * HOUR, {"a": 60})
    assert (await simulation.events()).count(("silent", "a")) <= 2


# Whether what comes is of now


def test_a_session_is_of_now_when_its_queue_is_worked_off() -> None:
    hearing = Hearing()
    assert not hearing.is_current(1, was_idle=True)
    hearing.went_down(1000)
    hearing.went_up(1120)
    assert not hearing.is_current(1120 + QUEUE_SECONDS / 2, was_idle=True)  # nothing has come yet
    assert not hearing.is_current(1125, was_idle=False)
    assert hearing.is_current(1126, was_idle=True)
    assert hearing.is_current(1127, was_idle=False)  # busy, and of now
    hearing.went_down(1200)
    assert not hearing.is_current(1201, was_idle=True)
    hearing.went_up(1320)
    assert not hearing.is_current(1439, was_idle=False)
    assert hearing.is_current(
        1440, was_idle=False
    )  # a gateway that is never idle, after as long as it was away


# With a real broker and a real database


class Live:
    """Devices that send five times a second, and what ingest and the judge make of them, in a hurry."""

    def __init__(self, database: Database, port: int) -> None:
        self.database, self.port = database, port
        self.sends = {"stays", "stops"}
        self.registry = Registry(database)
        configured = settings_for(port, telemetry={"silent_after": "3s"})
        self.ingest = Ingest(configured, database, "one", registry=self.registry)
        self.judge = SilenceWatch(database, lambda: self.ingest.settings, owner="one")

    async def told(self) -> set[tuple[str, str]]:
        async with self.database.connection() as connection:
            rows = await connection.fetch(
                "select type, data->>'device' as device from event where type like 'device.%'"
            )
        return {(row["type"], row["device"]) for row in rows}

    async def is_learned(self) -> bool:
        async with self.database.connection() as connection:
            count = await connection.fetchval(
                "select count(*) from device_state s join device using (customer_id, device_id)"
                " where intervals >= 4 and last_seen_at - first_seen_at > interval '3 seconds'"
            )
        return bool(count == 2)

    async def _work(self) -> None:
        while True:
            await self.registry.flush()
            with suppress(StoreError):
                await self.judge.round(clock.now())
            await asyncio.sleep(0.1)

    async def _send(self) -> None:
        number = 0
        while True:
            number += 1
            payload = orjson.dumps({"t": number})
            with suppress(OSError, TimeoutError):
                await publish(
                    self.port, *((f"acme/devices/{device}/telemetry", payload) for device in self.sends)
                )
            await asyncio.sleep(0.2)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        loops = (self.ingest.run(), self.ingest.note_hearing(), self._work(), self._send())
        tasks = [asyncio.create_task(each) for each in loops]
        try:
            yield
            assert not [task for task in tasks if task.done()]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("away", ["broker", "database"])
async def test_a_real_outage_makes_nobody_silent_and_who_stopped_is_found(
    make_mosquitto: Callable[..., Awaitable[Mosquitto]],
    make_postgres: Callable[..., Awaitable[Postgres]],
    monkeypatch: pytest.MonkeyPatch,
    away: str,
) -> None:
    monkeypatch.setattr(service, "HEARD_SECONDS", 0.1)
    monkeypatch.setattr(service, "BREAK_SECONDS", 0.5)
    monkeypatch.setattr(hearing_module, "QUEUE_SECONDS", 0.2)
    broker, server = await make_mosquitto(), await make_postgres(fsync="off")
    database = await Database.open(await server.create("fieldgate"), size=4)
    await migrate(database)
    live = Live(database, broker.port)

    async def is_told(what: str) -> bool:
        return (what, "stops") in await live.told()

    async with live.running():
        await wait_until(live.is_learned, seconds=30, what="intervals to be learned")
        outage = broker if away == "broker" else server
        await outage.stop()
        live.sends.remove("stops")
        began = clock.monotonic()
        await wait_until(lambda: clock.monotonic() > began + 5, what="longer than silence takes")
        await outage.start()
        await wait_until(lambda: is_told("device.silent"), seconds=40, what="who stopped to be found")
        assert await live.told() == {("device.silent", "stops")}
        live.sends.add("stops")
        await wait_until(lambda: is_told("device.returned"), seconds=20, what="it to return")
    await database.close()


async def test_silent_devices_are_counted_by_customer(simulation: Simulation) -> None:
    await simulation.known("a", "b")
    await sending(simulation, HOUR, {"a": 1, "b": 1})
    await sending(simulation, 30, {"b": 1})
    await Backlog(simulation.database).refresh()
    assert metrics.DEVICES_SILENT.labels("acme")._value.get() == 1
    await sending(simulation, 2, {"a": 1, "b": 1})
    await Backlog(simulation.database).refresh()
    assert not list(metrics.DEVICES_SILENT.collect()[0].samples)
