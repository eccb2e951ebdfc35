"""Commands on a real broker and a real database; every answer is validated against the published schemas on
its way.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator

import aiomqtt
import pytest

from benchmarks.servers import Mosquitto, wait_until
from gateway.events.command_admission import MAX_WAITING_PER_CUSTOMER, REQUEST_BYTES
from gateway.metrics import COMMANDS
from gateway.settings import Settings
from gateway.store import status as stored_status
from gateway.store.pool import Database
from tests.fixtures.commanding import ROOT, Customer, Service, commanded, customer, holder

TELEMETRY = "acme/devices/pump-7/telemetry"


def settings(port: int) -> Settings:
    return Settings.model_validate(
        {
            "broker": {"url": f"mqtt://127.0.0.1:{port}"},
            "security": {"encryption_keys": ["k"]},
            "customers": ["acme", "globex"],
        }
    )


@pytest.fixture
async def service(mosquitto: Mosquitto, database: Database) -> AsyncIterator[Service]:
    async with commanded(settings(mosquitto.port), database) as found:
        yield found


@pytest.fixture
async def acme(mosquitto: Mosquitto, service: Service) -> AsyncIterator[Customer]:
    async with customer(mosquitto.port) as found:
        await found.ask("status")  # from here on it is listened
        yield found


def counted(verb: str, outcome: str) -> float:
    return COMMANDS.labels(verb, outcome)._value.get()


async def allowed(asking: Customer) -> None:
    """Returns when the customer's allowance has a few requests again."""
    while "code" in await asking.ask("status", correlation=b"allowed"):
        await asyncio.sleep(0.2)


async def test_status_answers_for_one_connection_and_for_all_of_the_customer(acme: Customer) -> None:
    everything = await acme.ask("status")
    assert [found["connection"] for found in everything["connections"]] == ["acme-1", "acme-2"]
    one = await acme.ask("status", {"connection": "acme-2"})
    assert [(found["connection"], found["state"]) for found in one["connections"]] == [("acme-2", "paused")]


async def test_an_answer_is_for_the_one_who_asked(acme: Customer) -> None:
    correlation = bytes(range(256))
    await acme.publish("status", reply=acme.replies + "/deeper", correlation=correlation)
    message = await acme.answer(correlation)
    assert (str(message.topic), message.qos, message.retain) == (acme.replies + "/deeper", 1, False)
    assert (message.properties.ContentType, message.properties.CorrelationData) == (
        "application/json",
        correlation,
    )
    assert 0 < message.properties.MessageExpiryInterval <= 60


async def test_sync_is_handed_on_under_the_id_that_the_answer_names(acme: Customer, service: Service) -> None:
    answer = await acme.ask("sync", {"connection": "acme-1", "mode": "full"})
    assert (answer["connection"], answer["mode"]) == ("acme-1", "full")
    assert (service.asked, service.request_ids) == ([("acme-1", True)], [answer["request_id"]])


async def test_explain_shows_what_would_become_of_a_message(acme: Customer) -> None:
    answer = await acme.ask("explain", {"topic": TELEMETRY, "payload": '{"t": 21.5}'})
    [sample] = answer["explanation"]["samples"]
    [fed] = sample["meters"]
    assert (fed["connection"], fed["meter"], fed["due_at"]) == ("acme-1", "pump-7-T", "2026-05-04T12:16:00Z")
    raw = await acme.ask(
        "explain", {"topic": TELEMETRY, "payload_base64": base64.b64encode(b"\xff\x00").decode()}
    )
    assert raw["explanation"]["dead_letter"] == "invalid_json"
    many = await acme.ask(
        "explain", {"topic": TELEMETRY, "payload": "[" + ",".join(['{"t": 1}'] * 300) + "]"}
    )
    assert (len(many["explanation"]["samples"]), many["explanation"]["more_samples"]) == (100, 200)


REFUSED: tuple[tuple[str, object, str], ...] = (
    ("status", b"{", "request.invalid"),
    ("status", b"[]", "request.invalid"),
    ("status", b"\xff\xfe", "request.invalid"),
    ("status", b'{"connection": "' + b"[" * 5000 + b'"}', "request.invalid"),
    ("status", b"[" * 30_000, "request.invalid"),
    ("status", {"conection": "acme-1"}, "request.invalid"),
    ("status", {"connection": "a\0b"}, "request.invalid"),
    ("status", {"connection": "nobodys"}, "request.not_found"),
    ("status", {"connection": "globex-1"}, "request.not_found"),
    ("sync", None, "request.invalid"),
    ("sync", {"connection": "acme-1", "mode": "twice"}, "request.invalid"),
    ("sync", {"connection": "globex-1"}, "request.not_found"),
    ("sync", {"connection": "acme-2"}, "connection.paused"),
    ("explain", {"topic": TELEMETRY}, "request.invalid"),
    ("explain", {"topic": TELEMETRY, "payload": "1", "payload_base64": "MQ=="}, "request.invalid"),
    ("explain", {"topic": TELEMETRY, "payload_base64": "?"}, "request.invalid"),
    ("explain", {"topic": "globex/devices/pump-7/telemetry", "payload": "{}"}, "request.invalid"),
    ("disconnect", None, "request.not_found"),
    ("status", b" " * (REQUEST_BYTES + 1), "request.too_large"),
)


async def test_what_cannot_be_served_is_refused_with_a_stable_code(acme: Customer, service: Service) -> None:
    for number, (verb, payload, code) in enumerate(REFUSED):
        if number % 8 == 7:
            await allowed(acme)
        answer = await acme.ask(verb, payload, correlation=b"%d" % number)
        assert answer.get("code") == code, (verb, payload, answer)
        assert answer["detail"] and answer["request_id"]
    assert service.asked == []


async def test_a_connection_of_another_looks_as_if_it_did_not_exist(acme: Customer) -> None:
    theirs = await acme.ask("sync", {"connection": "globex-1"})
    nobodys = await acme.ask("sync", {"connection": "globex-2"})
    assert str(theirs["detail"]).replace("globex-1", "") == str(nobodys["detail"]).replace("globex-2", "")
    assert theirs.keys() == nobodys.keys() and theirs["code"] == nobodys["code"]


async def test_so_does_another_customer_and_its_meters(acme: Customer) -> None:
    for other in ("globex", "nobody"):
        answer = await acme.ask(
            "explain", {"topic": f"{other}/devices/pump-7/telemetry", "payload": '{"t": 1}'}
        )
        assert (answer["code"], answer["detail"]) == (
            "request.invalid",
            "the topic is not one of customer 'acme'",
        )


BELIEVED = (
    f"{ROOT}/customers/globex/responses/me",
    f"{ROOT}/customers/acme/connections/acme-1/status",
    f"{ROOT}/customers/acme/connections/acme-1/issues/1",
    f"{ROOT}/customers/acme/events/connection.activated",
    f"{ROOT}/customers/acme/commands/sync",
    f"{ROOT}/gateway/status",
    "acme/devices/pump-1/telemetry",
)


async def test_an_answer_never_goes_where_it_would_be_believed(
    mosquitto: Mosquitto, acme: Customer, service: Service
) -> None:
    """Nor is what was asked with it done."""
    async with aiomqtt.Client("127.0.0.1", mosquitto.port, protocol=aiomqtt.ProtocolVersion.V5) as watcher:
        await watcher.subscribe("#", qos=1)
        for reply in BELIEVED:
            await acme.publish("sync", b'{"connection": "acme-1"}', reply=reply, correlation=b"trick")
            await acme.publish("status", reply=reply, correlation=b"trick")
        await acme.ask("status", correlation=b"after")
        async for message in watcher.messages:
            told = "/commands/" not in str(message.topic)
            correlation = message.properties.CorrelationData
            assert not (told and correlation == b"trick"), message.topic
            if told and correlation == b"after":
                break
    assert service.asked == []


async def test_without_a_response_topic_only_a_sync_is_done(acme: Customer, service: Service) -> None:
    before = counted("status", "unanswerable")
    await acme.publish("status")
    await acme.publish("sync", b'{"connection": "acme-1"}')
    await wait_until(lambda: service.asked == [("acme-1", False)], what="the sync")
    assert counted("status", "unanswerable") == before + 1


async def test_a_retained_command_is_ignored_when_it_is_published_and_after(
    mosquitto: Mosquitto, service: Service
) -> None:
    before = counted("sync", "retained")
    async with customer(mosquitto.port) as acme:
        await acme.ask("status")
        await acme.publish("sync", b'{"connection": "acme-1"}', retain=True)
        await wait_until(
            lambda: counted("sync", "retained") == before + 1, what="the retained command is counted"
        )
    await mosquitto.stop()
    await mosquitto.start()
    async with customer(mosquitto.port) as again:
        await again.ask("status")
    assert service.asked == []


async def test_a_customer_that_asks_too_much_is_told_and_harms_no_other(
    mosquitto: Mosquitto, acme: Customer
) -> None:
    async with customer(mosquitto.port, "globex") as globex:
        for number in range(200):
            await acme.publish("status", reply=acme.replies, correlation=b"flood%d" % number)
        answer = await globex.ask("status")
        assert [found["connection"] for found in answer["connections"]] == ["globex-1"]
        await wait_until(
            lambda: any(b"gateway.overloaded" in message.payload for message in acme.received),
            what="a refusal",
        )


async def test_what_waits_for_a_slow_service_is_bounded(
    mosquitto: Mosquitto, acme: Customer, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, entered = asyncio.Event(), 0

    async def slow(*_: object) -> list[str]:
        nonlocal entered
        entered += 1
        await release.wait()
        return []

    before = counted("sync", "dropped")
    monkeypatch.setattr(stored_status, "owned", slow)
    for _ in range(MAX_WAITING_PER_CUSTOMER + 5):
        await acme.publish("sync", b'{"connection": "acme-1"}')
    await wait_until(lambda: counted("sync", "dropped") == before + 5, what="what is too much is dropped")
    release.set()
    await wait_until(lambda: entered == MAX_WAITING_PER_CUSTOMER, what="the others are served")


async def test_one_replica_answers_and_another_takes_over(mosquitto: Mosquitto, database: Database) -> None:
    configured = settings(mosquitto.port)
    async with commanded(configured, database, "one"), customer(mosquitto.port) as acme:
        await acme.ask("status")
        async with commanded(configured, database, "two"):
            assert await holder(database) == "one"
            for number in range(5):
                await acme.ask("status", correlation=b"once%d" % number)
            assert (
                len([message for message in acme.received if message.properties.CorrelationData == b"once4"])
                == 1
            )
    async with commanded(configured, database, "three"), customer(mosquitto.port) as acme:
        await acme.ask("status")
        assert await holder(database) == "three"
    assert await holder(database) is None


async def test_a_database_that_is_away_is_an_answer_too(
    mosquitto: Mosquitto, database: Database, acme: Customer
) -> None:
    await database.close()
    answer = await acme.ask("status")
    assert (answer["code"], answer["retry_after"]) == ("gateway.overloaded", 1.0)
