"""A list of brokers: which one the sessions are with, when they go on to another and when back, and what of
it is said. Two Mosquittos that know nothing of each other, and two addresses of one.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiomqtt
import mqtt5
import pytest

from benchmarks.mqtt import Publisher
from benchmarks.relay import Relay
from benchmarks.servers import Mosquitto, free_port, patient, wait_until
from gateway import metrics
from gateway.events.session import ControlSession, StrictClient
from gateway.ingest import Ingest
from gateway.ingest.quotas import Quotas
from gateway.ingest.subscriptions import DROPPED_TOPIC
from gateway.model.errors import BrokerRefused
from gateway.settings import BrokerSettings, Settings
from gateway.store import sessions
from gateway.store.pool import Database
from tests.fixtures.broker_script import Link, ScriptedBroker
from tests.integration.test_ingest_brokers import (
    ingesting,
    publish,
    reaches,
    refusal,
    samples,
    settings_for,
    value,
)

USUAL = {"topic": "{customer}/devices/{device}/telemetry"}
OLD = {"topic": "old/{customer}/{device}"}


@pytest.fixture
async def pair(
    make_mosquitto: Callable[..., Awaitable[Mosquitto]],
) -> tuple[Mosquitto, Mosquitto]:
    return await make_mosquitto(), await make_mosquitto()


def listed(*brokers: Mosquitto | Relay | int, **more: object) -> dict[str, Any]:
    ports = [one if isinstance(one, int) else one.port for one in brokers]
    return {"url": [f"mqtt://127.0.0.1:{port}" for port in ports], "return_interval": "1s", **more}


def used(port: int) -> float | None:
    labels = {"partition": "0", "broker": f"mqtt://127.0.0.1:{port}"}
    return metrics.REGISTRY.get_sample_value("fieldgate_mqtt_broker", labels)


def changes() -> float:
    return metrics.REGISTRY.get_sample_value("fieldgate_mqtt_broker_changes_total") or 0


async def with_broker(port: int, ingest: Ingest) -> None:
    await wait_until(
        lambda: ingest.connected and used(port) == 1, seconds=20, what=f"the session is with {port}"
    )


def settings_of(broker: dict[str, Any], telemetry: dict[str, object] | None = None) -> Settings:
    return settings_for(broker.pop("url"), telemetry=telemetry, **broker)


async def test_a_broker_killed_in_traffic_is_left_and_returned_to_with_what_it_had(
    pair: tuple[Mosquitto, Mosquitto], database: Database
) -> None:
    """What the first has queued and saved waits there; what devices give to the second is taken meanwhile."""
    first, second = pair
    before = changes()
    async with ingesting(settings_of(listed(first, second)), database) as ingest:
        await with_broker(first.port, ingest)
        await publish(first.port, *samples(500))
        await first.stop()  # SIGTERM: it saves
        await with_broker(second.port, ingest)
        assert used(first.port) == 0 and changes() == before + 1
        await publish(second.port, *samples(500, since=500))
        await reaches(database, 1000)
        await first.start()
        await publish(first.port, *samples(500, since=1000))
        await with_broker(first.port, ingest)
        assert used(second.port) == 0 and changes() == before + 2
        await reaches(database, 1500)


async def test_what_waited_at_a_broker_is_no_flood_when_that_broker_lets_us_in(
    pair: tuple[Mosquitto, Mosquitto], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has had its own time without us, and one that does not answer gives nobody an allowance."""
    first, second = pair
    settings = settings_of(listed(first, second))
    client = await sessions.client_id(database, settings.instance, 0)
    urls = [f"mqtt://127.0.0.1:{broker.port}" for broker in pair]
    await sessions.note_up(database, [(client, url) for url in urls])
    async with database.connection() as connection:
        for url, seconds in zip(urls, (50_000, 1_000), strict=True):
            await connection.execute(
                "update ingest_up set up_at = now() - $2 * interval '1 second' where broker = $1",
                url,
                seconds,
            )
    added: list[float] = []
    monkeypatch.setattr(Quotas, "grant_grace", lambda _, seconds, _now: added.append(seconds))
    await first.stop()
    async with ingesting(settings, database) as ingest:
        await with_broker(second.port, ingest)
        assert sum(added) == pytest.approx(1_000, abs=60)
        await first.start()
        await with_broker(first.port, ingest)
        assert sum(added) == pytest.approx(51_000, abs=60)


async def test_sigkill_in_the_middle_of_traffic_loses_nothing_that_the_next_acknowledged(
    pair: tuple[Mosquitto, Mosquitto], database: Database
) -> None:
    first, second = pair
    async with ingesting(settings_of(listed(first, second)), database) as ingest:
        await with_broker(first.port, ingest)
        acknowledged: list[int] = []
        async with Publisher[int](second.port, "device", acknowledged=acknowledged.append) as publisher:
            for number, (topic, payload) in enumerate(samples(4000)):
                await publisher.publish(topic, payload, number)
                if number == 1000:
                    await first.stop(signal.SIGKILL)
                    await with_broker(second.port, ingest)
            await publisher.flush(30)
        # what the second took before it knew our session is nobody's: the subscription came with the change
        held = [number for number in acknowledged if number > 1000]
        assert len(held) == 2999
        query = "select count(*) from telemetry where (metrics->>'a')::int > 1000"

        async def arrived() -> bool:
            return await value(database, query) == 2999

        await wait_until(arrived, seconds=20, what="all that came after the change")


async def test_two_addresses_of_one_broker_are_one_session(mosquitto: Mosquitto, database: Database) -> None:
    """As nodes of a cluster or balancers in front of one: what is queued comes by whichever answers."""
    async with Relay(mosquitto.port) as one, Relay(mosquitto.port) as other:
        settings = settings_of(listed(one, other))
        async with ingesting(settings, database) as ingest:
            await with_broker(one.port, ingest)
            async with Publisher[None](mosquitto.port, "device") as publisher:
                for number, (topic, payload) in enumerate(samples(3000)):
                    await publisher.publish(topic, payload, None)
                    if number == 1000:
                        one.cut(refuse=True)
                    if number == 2000:
                        await with_broker(other.port, ingest)
                await publisher.flush(30)
            await reaches(database, 3000)
            one.resume()
            going = True
            count = 3000
            async with Publisher[None](mosquitto.port, "device") as publisher:
                while going:
                    for topic, payload in samples(50, since=count):
                        await publisher.publish(topic, payload, None)
                    count += 50
                    await publisher.flush(30)
                    going = used(one.port) != 1
            await reaches(database, count)
            assert ingest.connected


async def test_a_first_that_accepts_and_answers_nothing_is_not_returned_to(
    mosquitto: Mosquitto, database: Database
) -> None:
    """A balancer in front of a dead broker: the session with the second is not given up for it."""
    async with Relay(mosquitto.port) as dead:
        dead.hang()
        settings = settings_of(listed(dead, mosquitto, connect_timeout="500ms"))
        async with ingesting(settings, database) as ingest:
            await with_broker(mosquitto.port, ingest)
            session, asked = ingest._ours[0][0]._session, dead.accepted
            await wait_until(lambda: dead.accepted >= asked + 2, seconds=15, what="it was asked twice")
            assert ingest._ours[0][0]._session is session and ingest.connected
            dead.resume()
            await with_broker(dead.port, ingest)


async def test_one_that_lets_in_and_throws_out_is_not_tried_for_ever(
    mosquitto: Mosquitto, database: Database
) -> None:
    async with Relay(mosquitto.port) as bad:
        settings = settings_of(listed(bad, mosquitto, return_interval=None))
        async with ingesting(settings, database) as ingest:
            await with_broker(bad.port, ingest)
            bad.cut()  # it would take us again at once
            await with_broker(mosquitto.port, ingest)
            await publish(mosquitto.port, *samples(5))
            await reaches(database, 5)


async def test_without_a_return_interval_the_session_stays(
    pair: tuple[Mosquitto, Mosquitto], database: Database
) -> None:
    first, second = pair
    await first.stop()
    async with ingesting(settings_of(listed(first, second, return_interval=None)), database) as ingest:
        await with_broker(second.port, ingest)
        session = ingest._ours[0][0]._session
        await first.start()
        for number in range(3):
            await publish(second.port, *samples(100, since=100 * number))
            await reaches(database, 100 * number + 100)
        assert ingest._ours[0][0]._session is session
        await second.stop()
        await with_broker(first.port, ingest)


async def test_what_left_the_sources_is_given_up_at_each_broker_that_holds_it(
    pair: tuple[Mosquitto, Mosquitto], database: Database
) -> None:
    """Both hold a session with the old filter. The one that is not there when it goes gives it up when it is
    back, and sends nothing that nobody asks for.
    """
    first, second = pair
    both = {"sources": [USUAL, OLD]}
    async with ingesting(settings_of(listed(first, second), telemetry=both), database) as ingest:
        await with_broker(first.port, ingest)
        await first.stop()
        await with_broker(second.port, ingest)
        await ingest.stop()
    only = settings_of(listed(first, second), telemetry={"sources": [USUAL]})
    async with ingesting(only, database) as ingest:
        await with_broker(second.port, ingest)
        await publish(second.port, ("old/acme/pump", b'{"a":1}'), *samples(1))
        await reaches(database, 1)
        await first.start()
        await with_broker(first.port, ingest)
        await publish(first.port, ("old/acme/pump", b'{"a":2}'), *samples(1, since=5))
        await reaches(database, 2)
    assert await value(database, "select count(*) from dead_letter") == 0
    assert await value(database, "select count(*) from ingest_subscription") == 2


async def test_what_is_known_of_a_broker_that_left_the_list_is_forgotten(
    pair: tuple[Mosquitto, Mosquitto], database: Database
) -> None:
    first, _ = pair
    both = {"sources": [USUAL, OLD]}
    async with ingesting(settings_for(first.port, telemetry=both), database) as ingest:
        await ingest.stop()
    async with database.connection() as connection:  # as a gateway of before left it
        await connection.execute("update ingest_subscription set broker = '' where filter like 'old%'")
    async with ingesting(settings_for(first.port, telemetry={"sources": [USUAL]}), database) as ingest:
        await publish(first.port, ("old/acme/pump", b'{"a":1}'), *samples(1))
        await reaches(database, 1)
        await ingest.stop()
    assert await value(database, "select count(*) from dead_letter") == 0
    assert await value(database, "select string_agg(filter, ' ') from ingest_subscription") == (
        "+/devices/+/telemetry"
    )


async def test_one_that_refuses_us_ends_nothing_while_another_takes_us(
    tmp_path: Path, mosquitto: Mosquitto, database: Database
) -> None:
    closed = Mosquitto(tmp_path / "closed", persistent=False, anonymous=False)
    await closed.start()
    try:
        async with ingesting(settings_of(listed(closed, mosquitto)), database) as ingest:
            await with_broker(mosquitto.port, ingest)
        also = f"mqtt://localhost:{closed.port}"  # every one of the list refuses us
        ended = await refusal(settings_for([closed.url, also]), database)
        assert isinstance(ended, BrokerRefused)
    finally:
        await closed.stop()


async def test_the_control_session_goes_on_and_back(pair: tuple[Mosquitto, Mosquitto]) -> None:
    first, second = pair
    settings = BrokerSettings.model_validate(listed(first, second))
    with_whom: list[int] = []

    async def serve(client: StrictClient) -> None:
        with_whom.append(client._port)
        await client.retain("fieldgate/v1/here", b"1")
        await client.ended()
        raise aiomqtt.MqttError("the connection has ended")

    running = asyncio.create_task(ControlSession("test", settings, serve=serve).run())
    try:
        await wait_until(lambda: with_whom == [first.port], what="with the first")
        await first.stop()
        await wait_until(lambda: with_whom[-1] == second.port, what="with the second")
        await first.start()
        await wait_until(lambda: with_whom[-1] == first.port, what="back with the first")
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_a_control_session_that_has_served_is_over_wherever_it_is(mosquitto: Mosquitto) -> None:
    settings = BrokerSettings.model_validate(listed(free_port(), mosquitto))

    async def serve(client: StrictClient) -> None:
        await client.retain("fieldgate/v1/here", b"1")

    async with patient(20):
        await ControlSession("test", settings, serve=serve).run()


async def test_with_a_list_the_broker_s_own_count_is_given_up(database: Database) -> None:

    async def nothing(_: Link) -> None: ...

    async with ScriptedBroker(nothing).running() as broker:
        settings = settings_for([broker.url, f"mqtt://127.0.0.1:{free_port()}"])
        async with ingesting(settings, database):
            link = await broker.link(0)
            given_up, asked = link.asked
    assert isinstance(given_up, mqtt5.UnsubscribePacket) and given_up.patterns == [DROPPED_TOPIC]
    assert isinstance(asked, mqtt5.SubscribePacket)
    assert [one.max_qos for one in asked.topic_filters] == 2 * [mqtt5.QoS.AT_LEAST_ONCE]
