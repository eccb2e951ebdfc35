"""Webhooks against real receivers: signed as the standard says, in order, none stalled by another, marked
when they come again.
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent as ReadEvent
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from benchmarks.servers import Postgres, wait_until
from connectors.kit.egress import transport
from gateway import metrics
from gateway.credentials.endpoint_secrets import rotate
from gateway.credentials.rotation import check_keys
from gateway.credentials.vault import Vault
from gateway.events.webhook_request import Requests
from gateway.events.webhooks import WebhookSender
from gateway.model.errors import RequestRefused, SealBroken
from gateway.model.event import EventType
from gateway.model.webhook import AttemptOutcome
from gateway.settings import WebhookSettings
from gateway.store import outbox, webhooks
from gateway.store.migrate import migrate
from gateway.store.pool import Database
from tests.fixtures.told import append, numbered
from tests.fixtures.webhook_receiver import CUT, HANG, LATE, STREAM, Received, Receiver
from tests.fixtures.webhook_rig import SEALER, pending, sending, service, settings, settled
from tests.fixtures.webhook_rig import SimulatedClock as Clock


async def all_taken(database: Database) -> bool:
    return await pending(database) == 0


async def test_what_arrives_is_a_signed_cloud_event(database: Database) -> None:
    async with Receiver() as receiver, sending(database):
        endpoint, secret = await service(database).create(receiver.url, customer=None)
        await append(database, numbered(7))
        await wait_until(lambda: bool(receiver.received), what="a webhook")
    [one] = receiver.received
    [event] = await outbox.read(database, customer=None)
    assert secret.startswith("whsec_")
    Webhook(secret).verify(one.body, one.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(one.body.replace(b"7", b"8"), one.headers)
    read = from_structured(
        HTTPMessage(headers={"content-type": one.headers["content-type"]}, body=one.body),
        JSONFormat(),
        ReadEvent,
    )
    assert read.get_id() == one.id == event.event_id
    assert read.get_type() == "fieldgate.sync.completed"
    assert (one.headers["content-type"], one.path, one.attempt) == (
        "application/cloudevents+json",
        "/hook",
        1,
    )
    assert one.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert "fieldgate-replay" not in one.headers
    [listed] = await service(database).endpoints(customer=None)
    assert (listed.id, listed.pending, listed.disabled_at) == (endpoint.id, 0, None)
    assert listed.last_success_at is not None
    assert secret not in repr(await service(database)._find(endpoint.id, None))


async def test_a_customer_has_so_many_endpoints(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.events.webhook_service.MAX_ENDPOINTS", 1)
    keeper = service(database)
    await keeper.create("https://one.example", customer="acme")
    with pytest.raises(RequestRefused, match="has 1 webhooks"):
        await keeper.create("https://two.example", customer="acme")
    await keeper.create("https://two.example", customer="globex")
    for _ in range(2):
        await keeper.create("https://everything.example", customer=None)


async def test_customers_and_types_are_kept_apart(database: Database) -> None:
    async with Receiver() as acme, Receiver() as everything, Receiver() as failures, sending(database):
        keeper = service(database)
        await keeper.create(acme.url, customer="acme")
        await keeper.create(everything.url, customer=None)
        await keeper.create(failures.url, customer=None, types=[EventType.SYNC_FAILED])
        await append(
            database,
            numbered(1),
            numbered(2, customer="globex", connection="theirs"),
            numbered(3, type=EventType.SYNC_FAILED),
            numbered(4, customer=None, connection=None),
        )
        await wait_until(lambda: all_taken(database), what="all delivered")
        assert [len(await keeper.endpoints(customer=customer)) for customer in ("acme", "globex", None)] == [
            1,
            0,
            3,
        ]
        with pytest.raises(RequestRefused, match="no such webhook"):
            [mine] = await keeper.endpoints(customer="acme")
            await keeper.delete(mine.id, customer="globex")
    assert [one.data["number"] for one in acme.taken] == [1, 3]
    assert sorted(one.data["number"] for one in everything.taken) == [1, 2, 3, 4]
    assert [one.data["number"] for one in failures.taken] == [3]


async def test_two_replicas_deliver_once_and_in_order(database: Database) -> None:
    names = [f"c{number}" for number in range(12)]
    async with Receiver() as receiver, sending(database), sending(database):
        await service(database).create(receiver.url, customer=None)
        await asyncio.gather(
            *(append(database, *(numbered(n, connection=name) for n in range(15))) for name in names)
        )
        await wait_until(lambda: all_taken(database), what="all delivered")
    assert {name: receiver.numbers(name) for name in names} == {name: list(range(15)) for name in names}
    assert all(one.attempt == 1 for one in receiver.received)
    assert receiver.most_at_once <= 2 * 4


async def test_one_refused_event_holds_its_own_connection_only(database: Database) -> None:
    simulated = Clock()
    async with (
        Receiver(lambda one: 500 if one.data["number"] == 1 else 204) as receiver,
        sending(database, now=simulated) as worker,
    ):
        await service(database).create(receiver.url, customer=None)
        await append(
            database,
            *(numbered(n, connection=name) for n in range(4) for name in ("sink", "other")),
            numbered(5, connection="third"),
        )
        await settled(database, worker, simulated.now)
        assert receiver.numbers("sink") == receiver.numbers("other") == [0]
        assert receiver.numbers("third") == [5]
        receiver.answer = 204
        simulated.now += timedelta(seconds=5)
        await settled(database, worker, simulated.now)
    assert receiver.numbers("sink") == receiver.numbers("other") == [0, 1, 2, 3]
    assert [
        one.attempt
        for one in receiver.received
        if one.data["number"] == 1 and one.data["connection"] == "sink"
    ] == [1, 2]


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (HANG, "unreachable"),
        (CUT, "unreachable"),
        (500, "refused"),
        (404, "refused"),
        (302, "refused"),
        (410, "gone"),
        (STREAM, "delivered"),
        (204, "delivered"),
    ],
)
async def test_what_counts_as_taken(database: Database, answer: int | str, outcome: str) -> None:
    before = metrics.WEBHOOK_DELIVERIES.labels(outcome)._value.get()
    simulated = Clock()
    async with Receiver(answer) as receiver, sending(database, now=simulated, timeout="300ms") as worker:
        await service(database).create(receiver.url, customer=None)
        await append(database, numbered(0))
        await wait_until(lambda: bool(receiver.received), what="an attempt")
        await settled(database, worker, simulated.now)
        assert metrics.WEBHOOK_DELIVERIES.labels(outcome)._value.get() == before + 1
        [endpoint] = await service(database).endpoints(customer=None)
        assert (endpoint.last_error is None) == (outcome == "delivered")
        assert (endpoint.disabled_reason == "gone") == (outcome == "gone")
        assert await pending(database) == {"delivered": 0, "gone": 2}.get(outcome, 1)
        assert len(receiver.received) == 1


async def test_a_slow_endpoint_stalls_no_other(database: Database) -> None:
    async with Receiver(HANG) as slow, Receiver() as quick, sending(database, timeout="5s"):
        keeper = service(database)
        await keeper.create(slow.url, customer=None)
        await keeper.create(quick.url, customer=None)
        await append(database, *(numbered(n, connection=f"c{n}") for n in range(40)))
        await wait_until(lambda: len(quick.taken) == 40, what="the quick one has all")
        assert len(slow.received) == slow.most_at_once == 4
        slow.answer = 204


async def test_an_endpoint_that_says_gone_is_disabled_and_keeps_its_events(database: Database) -> None:
    simulated = Clock()
    async with Receiver(410) as receiver, Receiver() as watcher, sending(database, now=simulated) as worker:
        keeper = service(database)
        endpoint, _ = await keeper.create(receiver.url, customer="acme")
        await keeper.create(watcher.url, customer="acme", types=[EventType.WEBHOOK_DISABLED])
        await append(database, *(numbered(n) for n in range(3)))
        await wait_until(lambda: bool(watcher.received), what="the other endpoint is told")
        assert watcher.received[0].data == {
            "customer": "acme", "connection": None, "request_id": None,
            "webhook": endpoint.id, "host": "127.0.0.1", "reason": "gone", "error": "it answered 410",
        }  # fmt: skip
        await append(database, numbered(3))
        await settled(database, worker, simulated.now)
        assert len(receiver.received) == 1
        receiver.answer = 204
        await keeper.enable(endpoint.id, customer="acme")
        await wait_until(lambda: all_taken(database), what="what was kept is delivered")
    assert [one.data["number"] for one in receiver.taken if one.data["connection"] == "sink"] == [0, 1, 2, 3]
    assert [one.attempt for one in receiver.received if one.data.get("number") == 0] == [1, 2]


async def test_a_test_is_of_one_endpoint_also_in_a_replay(database: Database) -> None:
    keeper = service(database)
    one, _ = await keeper.create("https://one.example", customer="acme")
    other, _ = await keeper.create("https://other.example", customer="acme")
    test = await keeper.test(one.id, customer="acme")
    beginning = datetime(2020, 1, 1, tzinfo=UTC)
    assert await keeper.replay(other.id, customer="acme", since=beginning) == 0
    with pytest.raises(RequestRefused, match="no such event"):
        await keeper.resend(other.id, test, customer="acme")
    assert await keeper.replay(one.id, customer="acme", since=beginning) == 1
    await keeper.resend(one.id, test, customer="acme")


async def test_a_replay_comes_with_the_old_id_and_a_mark(database: Database) -> None:
    async with Receiver() as receiver, sending(database):
        keeper = service(database)
        endpoint, secret = await keeper.create(receiver.url, customer=None)
        await append(database, *(numbered(n) for n in range(4)))
        await wait_until(lambda: all_taken(database), what="all delivered")
        first = list(receiver.received)
        events = await outbox.read(database, customer=None)
        assert await keeper.replay(endpoint.id, customer=None, since=events[1].event_id) == 3
        await wait_until(lambda: all_taken(database), what="delivered again")
        assert await keeper.replay(endpoint.id, customer=None, since=events[3].at) == 1
        await wait_until(lambda: all_taken(database), what="delivered again")
        with pytest.raises(RequestRefused, match="no such event"):
            await keeper.replay(endpoint.id, customer=None, since="7c9e6679-7425-40de-944b-e07fc1f90ae7")
    again = receiver.received[4:]
    assert [one.data["number"] for one in again] == [1, 2, 3, 3]
    assert [one.headers.get("fieldgate-replay") for one in again] == ["true"] * 4
    assert [one.attempt for one in again] == [2, 2, 2, 3]
    assert [one.id for one in again[:3]] == [one.id for one in first[1:]]
    Webhook(secret).verify(again[0].body, again[0].headers)


async def test_the_timestamp_is_that_of_the_attempt(database: Database) -> None:
    """An event that is hours old when an endpoint is back would be refused by its timestamp otherwise."""
    now = [datetime(2026, 11, 1, 10, tzinfo=UTC)]
    async with Receiver(500) as receiver, sending(database, now=lambda: now[0]) as worker:
        _, secret = await service(database).create(receiver.url, customer=None)
        await append(database, numbered(0))
        for hours in (0, 7):
            now[0] += timedelta(hours=hours)
            receiver.answer = 500 if not hours else 204
            await settled(database, worker, now[0])
    first, second = receiver.received
    assert (first.attempt, second.attempt) == (1, 2)
    stamps = [int(one.headers["webhook-timestamp"]) for one in (first, second)]
    assert stamps[1] - stamps[0] == 7 * 3600 and stamps[1] == int(now[0].timestamp())
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]
    assert secret


async def test_for_a_day_both_secrets_sign(database: Database) -> None:
    simulated = Clock()
    async with Receiver() as receiver, sending(database, now=simulated) as worker:
        keeper = service(database, now=simulated)
        endpoint, old = await keeper.create(receiver.url, customer=None)
        new = await keeper.rotate_secret(endpoint.id, customer=None)
        await append(database, numbered(0))
        await wait_until(lambda: len(receiver.taken) == 1, what="delivered")
        simulated.now += timedelta(days=1)
        await append(database, numbered(1))
        await wait_until(lambda: len(receiver.taken) == 2, what="delivered")
        await settled(database, worker, simulated.now)
    both, one = receiver.taken
    for secret in (old, new):
        Webhook(secret).verify(both.body, both.headers)
    assert len(both.headers["webhook-signature"].split(" ")) == 2
    assert len(one.headers["webhook-signature"].split(" ")) == 1


async def test_secrets_are_sealed_for_their_endpoint_and_rotate_with_the_key(database: Database) -> None:
    keeper = service(database)
    first, secret = await keeper.create("https://one.example/", customer=None)
    second, _ = await keeper.create("https://two.example/", customer=None)
    async with database.connection() as connection:
        rows = await connection.fetch("select endpoint_id, secret from webhook_endpoint")
        assert not any(
            secret.encode() in row["secret"] or secret[6:].encode() in row["secret"] for row in rows
        )
    sealed = {row["endpoint_id"]: row["secret"] for row in rows}
    with pytest.raises(SealBroken):
        SEALER.open(sealed[first.id], endpoint=second.id, generation=1)
    old, both, new = Vault(["test key"]), Vault(["newer", "test key"]), Vault(["newer"])
    with pytest.raises(SealBroken, match="webhook"):
        await check_keys(database, new)
    assert await rotate(database, both) == 2
    assert await rotate(database, both) == 0
    await check_keys(database, new)
    with pytest.raises(SealBroken):
        await check_keys(database, old)


def certificate(directory: Path, name: str) -> tuple[Path, ssl.SSLContext]:
    """A certificate that is its own authority, and what serves with it."""
    key, found = directory / "key.pem", directory / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}",
         "-keyout", str(key), "-out", str(found)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(found, key)
    return found, context


async def test_certificates_are_checked_against_the_name(database: Database, tmp_path: Path) -> None:
    """The connection goes to the address that was judged; the certificate is still that of the name."""
    authority, tls = certificate(tmp_path, "hooks.example")
    requests = settings().webhooks

    async def loopback(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async with Receiver(tls=tls) as receiver:
        trusting = ssl.create_default_context(cafile=str(authority))
        sender = Requests(requests, partial(transport, resolve=loopback, tls=trusting))
        port = receiver.port
        headers = {"webhook-id": "m", "fieldgate-attempt": "1"}
        assert await sender.post(f"https://hooks.example:{port}/x", b"{}", headers) == (
            AttemptOutcome.DELIVERED,
            None,
        )
        assert receiver.received[0].headers["host"] == f"hooks.example:{port}"
        assert (await sender.post(f"https://other.example:{port}/x", b"{}", headers))[
            0
        ] is AttemptOutcome.UNREACHABLE
        await sender.close()
        distrusting = Requests(requests, partial(transport, resolve=loopback))
        assert (await distrusting.post(f"https://hooks.example:{port}/x", b"{}", headers))[
            0
        ] is AttemptOutcome.UNREACHABLE
        await distrusting.close()
    assert len(receiver.received) == 1


async def test_a_name_that_changes_its_meaning_reaches_nothing_private() -> None:
    """Every attempt resolves once and connects to exactly what it judged."""
    answers = [["127.0.0.1"], ["10.0.0.1", "::ffff:127.0.0.1"], ["fe80::1%lo"], ["203.0.113.9", "127.0.0.1"]]
    asked = Counter[str]()

    async def rebinding(host: str, port: int) -> list[str]:
        asked[host] += 1
        return answers[asked[host] - 1]

    async with Receiver() as receiver:
        sender = Requests(WebhookSettings(allow_http=True), partial(transport, resolve=rebinding))
        for _ in answers:
            outcome, error = await sender.post(f"http://hooks.example:{receiver.port}/", b"{}", {})
            assert (outcome, error) == (
                AttemptOutcome.FORBIDDEN,
                "its name leads to no address of the public internet",
            )
        assert (await sender.post(f"http://127.0.0.1:{receiver.port}/", b"{}", {}))[
            0
        ] is AttemptOutcome.FORBIDDEN
        await sender.close()
        real = Requests(WebhookSettings(allow_http=True), transport)
        for name in (
            "localhost",
            "2130706433",
            "0x7f.1",
            "017700000001",
        ):  # what the system's resolver takes for loopback
            assert (await real.post(f"http://{name}:{receiver.port}/", b"{}", {}))[0] in (
                AttemptOutcome.FORBIDDEN,
                AttemptOutcome.UNREACHABLE,
            )
        await real.close()
        assert receiver.received == []
    assert asked["hooks.example"] == len(answers)


async def test_a_replica_that_stops_waits_for_the_answer(database: Database) -> None:
    came = asyncio.Event()

    def answer(one: Received) -> str:
        came.set()
        return LATE

    async with Receiver(answer) as receiver:
        await service(database).create(receiver.url, customer=None)
        await append(database, numbered(0), numbered(1))
        worker = WebhookSender(
            settings(), database, SEALER, requests=Requests(settings().webhooks, transport)
        )
        running = asyncio.create_task(worker.run())
        await came.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert await pending(database) == 1
        receiver.answer = 204
        async with sending(database):
            await wait_until(lambda: all_taken(database), what="the other one is delivered")
    assert [(one.data["number"], one.attempt) for one in receiver.received] == [(0, 1), (1, 1)]


async def test_a_database_that_is_killed_during_an_attempt_learns_of_its_end(
    make_postgres: Callable[..., Awaitable[Postgres]],
) -> None:
    server = await make_postgres()
    database = await Database.open(server.dsn(), size=4)
    await migrate(database)
    async with Receiver(HANG) as receiver, sending(database, timeout="60s"):
        await service(database).create(receiver.url, customer=None)
        await append(database, numbered(0), numbered(1))
        await wait_until(lambda: bool(receiver.received), what="an attempt")
        await server.kill()
        receiver.answer = 204
        receiver.release()
        await server.start()
        await wait_until(lambda: all_taken(database), what="both delivered")
    assert [(one.data["number"], one.attempt) for one in receiver.received] == [(0, 1), (1, 1)]
    await database.close()


KILLED = """
import asyncio, sys
from connectors.kit.egress import transport
from gateway.events.webhook_request import Requests
from gateway.events.webhooks import WebhookSender
from gateway.store.pool import Database
from tests.fixtures.webhook_rig import SEALER, settings

async def main(dsn):
    sender = Requests(settings().webhooks, transport)
    await WebhookSender(settings(), await Database.open(dsn, size=3), SEALER, requests=sender).run()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_an_attempt_that_was_killed_comes_again_with_a_mark(database: Database, dsn: str) -> None:
    async with Receiver(HANG) as receiver:
        await service(database).create(receiver.url, customer=None)
        await append(database, numbered(0), numbered(1))
        victim = await asyncio.create_subprocess_exec(
            sys.executable, "-c", KILLED, dsn, cwd=Path(__file__).parents[2]
        )
        try:
            await wait_until(lambda: bool(receiver.received), what="the first attempt")
        finally:
            victim.kill()
            await victim.wait()
        receiver.answer = 204
        assert (
            await webhooks.due(database, now=Clock().now, busy={}, per_endpoint=4, limit=10) == []
        )  # leased to the dead one for a while
        async with sending(database):
            async with database.connection() as connection:
                await connection.execute("update webhook_delivery set lease_until = now()")
            await wait_until(lambda: all_taken(database), what="all delivered")
    assert [(one.data["number"], one.attempt) for one in receiver.received] == [(0, 1), (0, 2), (1, 1)]
    assert receiver.received[0].id == receiver.received[1].id
