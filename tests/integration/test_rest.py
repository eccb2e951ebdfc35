"""A gateway at rest: who works something off is told that there is something, and asks seldom; where nobody
tells it asks as often as ever.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from benchmarks.servers import Mosquitto, wait_until
from connectors.kit.egress import transport
from gateway import metrics
from gateway.connections import following, incidents, lifecycle
from gateway.connections.incidents import Incidents
from gateway.events import backlog, mqtt_publisher, record_publisher, relay, webhooks
from gateway.events.backlog import Backlog
from gateway.events.mqtt_publisher import StatusPublisher
from gateway.events.record_publisher import RecordPublisher
from gateway.events.relay import Relay
from gateway.events.webhook_request import Requests
from gateway.events.webhooks import WebhookSender
from gateway.http import server
from gateway.ingest import silence
from gateway.ingest.silence import SilenceWatch
from gateway.model.sample import to_microseconds
from gateway.model.webhook import AttemptOutcome
from gateway.processes.readiness import Readiness
from gateway.settings import Settings
from gateway.store import notices, presence
from gateway.store import webhooks as webhook_store
from gateway.store.notices import BREAKERS, DUE, EVENTS, RECORDS, RETAINED, Notices
from gateway.store.pool import Database, Session
from gateway.store.presence import Presence
from gateway.store.queries import sql
from gateway.store.telemetry import TelemetryStore
from tests.fixtures.connection_rig import World
from tests.fixtures.failing import Failing
from tests.fixtures.http_fakes import serving
from tests.fixtures.told import append, listening, numbered
from tests.fixtures.webhook_rig import SEALER
from tests.fixtures.webhook_rig import settings as webhook_settings

NEVER = 3600.0
OFTEN = 0.1
EVENT = "insert into event (type, lane, data) values ('sync.completed', 'x', '{}')"
CUSTOMER = "insert into customer (customer_id) values ('acme')"
CONNECTION = """
insert into connection (connection_id, customer_id, system, hosting, tier, state, declared_digest, probe_at)
values ('c1', 'acme', 'scripted', 'cloud', 1, 'active', '', now() + interval '1 hour')
"""
ENDPOINT = "insert into webhook_endpoint (endpoint_id, url, secret) values ('w1', 'https://h.example/', '')"


def settings(port: int) -> Settings:
    return Settings.model_validate(
        {"broker": {"url": f"mqtt://127.0.0.1:{port}"}, "security": {"encryption_keys": ["k"]}}
    )


Loops = tuple[Notices, list[Callable[[], Coroutine[Any, Any, None]]]]


@dataclass(frozen=True)
class Part:
    """Who works something off. `asks`: the statement of each look; `news`: what there is to be told of."""

    asks: str
    news: str
    loops: Callable[[Database, int], Loops]


def sender(database: Database, told: Notices | None) -> WebhookSender:
    wanted = webhook_settings()
    requests = Requests(wanted.webhooks, transport)
    return WebhookSender(wanted, database, SEALER, requests=requests, notices=told)


def _events(database: Database, port: int) -> Loops:
    told = Notices(database)
    return told, [told.run, Relay(settings(port), database, owner="one", notices=told).run]


def _webhooks(database: Database, _: int) -> Loops:
    told = Notices(database)
    return told, [told.run, sender(database, told).run]


def _records(database: Database, port: int) -> Loops:
    told = Notices(database)
    return told, [told.run, RecordPublisher(settings(port), database, owner="one", notices=told).run]


def _documents(database: Database, port: int) -> Loops:
    told = Notices(database)
    return told, [told.run, StatusPublisher(settings(port), database, "one", notices=told).run]


def _breakers(database: Database, _: int) -> Loops:
    told = Notices(database)
    return told, [told.run, Incidents(database, owner="one", notices=told).run]


def _probes(database: Database, _: int) -> Loops:
    engine = World(database).engine
    return engine.notices, [engine.lifecycle.run]  # which runs the notices


PARTS = {
    "events to MQTT": Part("outbox_unpublished", EVENT, _events),
    "webhooks": Part("webhook_due", EVENT, _webhooks),
    "records": Part(
        "publication_behind",
        "insert into record_log (customer_id) values ('acme'); update record_log set position = 1",
        _records,
    ),
    "retained documents": Part(
        "retained_changes", "insert into retained_change (connection_id) values ('gone')", _documents
    ),
    "breakers": Part(
        "breaker_list",
        "insert into breaker (scope, key, next_trial_at, operation) values ('host', 'h', now(), 'push')",
        _breakers,
    ),
    "probes": Part("probe_claim", "update connection set probe_at = now()", _probes),
}


@pytest.fixture(params=PARTS)
def part(request: pytest.FixtureRequest) -> Part:
    return PARTS[request.param]


def paced(monkeypatch: pytest.MonkeyPatch, *, poll: float, rest: float) -> None:
    """How often everybody looks, told and untold. No round goes on, and nothing was just found."""
    monkeypatch.setattr(notices, "REST_SECONDS", rest)
    monkeypatch.setattr(notices, "BUSY_SECONDS", 0.0)
    monkeypatch.setattr(incidents, "REFRESH_SECONDS", poll)
    monkeypatch.setattr(incidents, "DECIDE_SECONDS", NEVER)
    for module in (relay, webhooks, record_publisher, mqtt_publisher, lifecycle):
        monkeypatch.setattr(module, "POLL_SECONDS", poll)


async def _ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def execute(database: Database, statement: str) -> None:
    async with database.connection() as connection:
        await connection.execute(statement)


@asynccontextmanager
async def at_work(
    part: Part, database: Database, port: int, *, is_told: bool = True
) -> AsyncIterator[tuple[Notices, Counter[str]]]:
    """With a connection that nothing is due for; what it has asked so far."""
    await execute(database, CUSTOMER)
    await execute(database, CONNECTION)
    failing = Failing(database)
    told, loops = part.loops(failing, port)
    if not is_told:
        told.run = asyncio.Event().wait  # type: ignore[assignment, method-assign]
        loops = loops[-1:]
    running = [asyncio.create_task(loop()) for loop in loops]
    try:
        await wait_until(lambda: told.is_listening or not is_told, what="it listens")
        yield told, failing.asked
    finally:
        await _ended(*running)


async def rests(asked: Counter[str], part: Part) -> None:
    """It has looked, and looks no more."""
    await wait_until(lambda: asked[sql(part.asks)] > 0, what="it looks")
    seen = -1
    while seen != asked[sql(part.asks)]:
        seen = asked[sql(part.asks)]
        await asyncio.sleep(0.3)


async def looks(asked: Counter[str], part: Part, *, times: int, what: str) -> None:
    before = asked[sql(part.asks)]
    await wait_until(lambda: asked[sql(part.asks)] >= before + times, what=what)


# The parts, one by one


async def test_news_are_looked_at_at_once(
    part: Part, database: Database, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks by itself here: it is told, or nothing comes."""
    paced(monkeypatch, poll=NEVER, rest=NEVER)
    async with at_work(part, database, mosquitto.port) as (_, asked):
        await rests(asked, part)
        before = asked[sql(part.asks)]
        await execute(database, part.news)
        await wait_until(lambda: asked[sql(part.asks)] > before, what="it is told", seconds=10)


async def test_who_is_told_looks_all_the_same_now_and_then(
    part: Part, database: Database, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notice may be lost."""
    paced(monkeypatch, poll=NEVER, rest=OFTEN)
    monkeypatch.setattr(lifecycle, "POLL_SECONDS", OFTEN / 4)  # a turn is never shorter than this
    async with at_work(part, database, mosquitto.port) as (_, asked):
        await looks(asked, part, times=4, what="it looks again and again")


async def test_who_is_told_looks_seldom(
    part: Part, database: Database, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    paced(monkeypatch, poll=OFTEN, rest=NEVER)
    async with at_work(part, database, mosquitto.port) as (_, asked):
        await rests(asked, part)


async def test_where_nobody_tells_everybody_looks_often(
    part: Part, database: Database, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler that passes no notices on."""
    paced(monkeypatch, poll=OFTEN, rest=NEVER)
    async with at_work(part, database, mosquitto.port, is_told=False) as (_, asked):
        await looks(asked, part, times=4, what="it looks again and again")


async def test_who_was_told_looks_often_once_the_session_is_gone(
    part: Part, database: Database, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    paced(monkeypatch, poll=OFTEN, rest=NEVER)
    monkeypatch.setattr(notices, "RECONNECT_SECONDS", NEVER)
    async with at_work(part, database, mosquitto.port) as (told, asked):
        await rests(asked, part)
        await execute(
            database,
            "select pg_terminate_backend(pid) from pg_stat_activity where query like 'UNLISTEN%'"
            " and datname = current_database()",
        )
        await wait_until(lambda: not told.is_listening, what="the session is gone")
        await looks(asked, part, times=4, what="it looks again and again")


async def test_who_found_something_looks_on_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes before it is worked off is told once; `retained_change`, for one."""
    told = Notices.__new__(Notices)
    told.is_listening, told._told = True, {}
    pace = notices.LookPace(told, EVENTS, 0.5, lambda: None)
    assert pace.seconds(found=False) == notices.REST_SECONDS
    assert pace.seconds(found=True) == pace.seconds(found=False) == 0.5
    monkeypatch.setattr(notices, "BUSY_SECONDS", 0.0)
    assert pace.seconds(found=True) == 0.5
    assert pace.seconds(found=False) == notices.REST_SECONDS
    told.is_listening = False
    assert pace.seconds(found=False) == 0.5


async def test_an_event_is_published_by_a_relay_that_is_told(
    database: Database, mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    paced(monkeypatch, poll=NEVER, rest=NEVER)
    part = PARTS["events to MQTT"]
    async with listening(mosquitto.port) as listener, at_work(part, database, mosquitto.port) as (_, asked):
        await rests(asked, part)
        for number in range(3):
            await append(database, numbered(number))
            await listener.until(lambda n=number: listener.numbers() == [*range(n + 1)])  # type: ignore[misc]


async def test_who_is_told_much_at_once_looks_a_few_times_and_after_the_last(database: Database) -> None:
    """A customer who makes much of it must not have everybody look after each commit."""
    told, heard = Notices(database), list[float]()
    loop = asyncio.get_running_loop()
    told.tell(EVENTS, lambda: heard.append(loop.time()))
    running = asyncio.create_task(told.run())
    await wait_until(lambda: told.is_listening, what="it listens")
    heard.clear()
    began = loop.time()
    for _ in range(200):
        await execute(database, f"select pg_notify('{EVENTS}', '')")
    last = loop.time()
    await wait_until(
        lambda: bool(heard) and heard[-1] >= last - notices.TOGETHER_SECONDS, what="the last one"
    )
    assert len(heard) <= 3 + (loop.time() - began) / notices.TOGETHER_SECONDS
    assert 200 > len(heard) > 0
    await _ended(running)


# What is told, and what is not


TOLD = {
    "an event": (EVENTS, EVENT),
    "a delivery again": (EVENTS, "update webhook_delivery set state = 'pending', next_at = null"),
    "a delivery that waits, at once": (EVENTS, "update webhook_delivery set next_at = null"),
    "an endpoint that is enabled": (EVENTS, "update webhook_endpoint set disabled_at = null"),
    "records": (RECORDS, "update record_log set position = position + 1"),
    "a document": (RETAINED, "insert into retained_change (connection_id) values ('other')"),
    "a device that falls silent": (RETAINED, "update device_state set version = version + 1"),
    "a breaker that opens": (
        BREAKERS,
        "insert into breaker (scope, key, next_trial_at, operation) values ('host', 'new', now(), 'push')",
    ),
    "a breaker that closes": (BREAKERS, "delete from breaker"),
    "a breaker that is narrowed": (BREAKERS, "update breaker set operation = 'push'"),
    "a connection that is due": (DUE, "update connection set probe_at = now()"),
}
UNTOLD = {
    "an attempt that is begun": "update webhook_delivery set attempt = attempt + 1, lease_until = now()",
    "an attempt that is put off": "update webhook_delivery set next_at = now() + interval '2 hours'",
    "a delivery that ends": "update webhook_delivery set state = 'delivered', next_at = null",
    "an endpoint that fails": "update webhook_endpoint set failing_since = now()",
    "an event that is published": "update event set published_at = now()",
    "records behind those that are to be told": (
        "update record_publication set position = 0; update record_log set position = position + 1"
    ),
    "a document that is queued already": (
        "insert into retained_change as held (connection_id) values ('c1')"
        " on conflict (connection_id) do update set changes = held.changes + 1"
    ),
    "a device that sends": "update device_state set last_seen_at = now(), due_at = now()",
    "a document that was said": "update device_state set told = version",
    "a breaker that is tried": "update breaker set next_trial_at = now(), trials = trials + 1",
    "a probe that is planned": "update connection set probe_at = now() + interval '50 seconds'",
}
WORLD = f"""
{CUSTOMER};
{CONNECTION};
insert into webhook_endpoint (endpoint_id, url, secret, disabled_at) values ('w1', 'https://h.example/', '', now());
{EVENT};
insert into webhook_delivery (position, endpoint_id, lane, next_at)
    select position, 'w1', lane, now() + interval '1 hour' from event;
insert into record_log (customer_id, position) values ('acme', 4);
insert into record_publication (customer_id, position) values ('acme', 4);
insert into retained_change (connection_id) values ('c1') on conflict do nothing;
insert into device (customer_id, device_id) values ('acme', 'd');
insert into device_state (customer_id, device_id, last_seen_at, last_sample_at, metrics)
    values ('acme', 'd', now(), now(), '{{}}');
insert into breaker (scope, key, next_trial_at, operation) values ('host', 'h', now(), 'probe')
"""


@asynccontextmanager
async def hearing(database: Database) -> AsyncIterator[Counter[str]]:
    """How often each channel was told of."""
    heard: Counter[str] = Counter()
    told = Notices(database)
    for channel in (EVENTS, RECORDS, RETAINED, BREAKERS, DUE):
        told.tell(channel, lambda channel=channel: heard.update([channel]))  # type: ignore[misc]
    running = asyncio.create_task(told.run())
    try:
        await wait_until(lambda: told.is_listening, what="it listens")
        heard.clear()
        yield heard
    finally:
        await _ended(running)


@pytest.mark.parametrize("what", TOLD)
async def test_what_is_told(database: Database, what: str) -> None:
    await execute(database, WORLD)
    channel, statement = TOLD[what]
    async with hearing(database) as heard:
        await execute(database, statement)
        await wait_until(lambda: heard[channel] > 0, what=what)


async def test_what_only_goes_on_is_not_told(database: Database) -> None:
    """And telemetry never is: transactions that tell something commit one after the other."""
    await execute(database, WORLD)
    async with hearing(database) as heard:
        for statement in UNTOLD.values():
            await execute(database, statement)
        at = to_microseconds(datetime.now(UTC))
        store = TelemetryStore(database, register_customers=True)
        await store.write([(("acme", "new", at), {"t": 1.0}, at)], [])
        await execute(database, f"select pg_notify('{DUE}', '')")
        await wait_until(lambda: heard[DUE] > 0, what="what was told after it")
    assert heard == {DUE: 1}


class _Passing:
    """A session behind a pooler: what it listens to is listened to by another."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def add_listener(self, _channel: str, _listener: object) -> None:
        await self._session.execute("select 1")

    async def remove_listener(self, _channel: str, _listener: object) -> None:
        await self._session.execute("select 1")


class Pooled(Database):
    def __init__(self, database: Database) -> None:
        super().__init__(database._pool, database._hosts, database._name, database._silent_seconds)

    @asynccontextmanager
    async def pinned(self, *, silent_seconds: float | None = None) -> AsyncIterator[Session]:
        async with super().pinned(silent_seconds=silent_seconds) as session:
            yield _Passing(session)  # type: ignore[misc]


async def test_a_session_that_hears_nothing_does_not_listen(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever believed that it does would look every half minute for what changes now."""
    monkeypatch.setattr(notices, "PROOF_SECONDS", OFTEN)
    monkeypatch.setattr(notices, "UNHEARD_SECONDS", OFTEN)
    failing = Failing(Pooled(database))
    failing.pinned = Pooled(database).pinned  # type: ignore[method-assign]
    told = Notices(failing)
    running = asyncio.create_task(told.run())
    await wait_until(lambda: failing.asked["select pg_notify($1, '')"] >= 3, what="it is tried again")
    assert not told.is_listening and not told.wake.is_set()
    await _ended(running)


# What is due by the clock


@pytest.mark.parametrize(
    ("state", "seconds"),
    [
        ("next_at = now() + interval '30 seconds'", 30.0),
        ("lease_until = now() + interval '40 seconds'", 40.0),
        ("next_at = now() - interval '1 hour', lease_until = now() + interval '40 seconds'", 40.0),
        ("next_at = now() - interval '1 hour'", 0.0),
        ("attempt = 0", 0.0),
        ("state = 'delivered'", None),
    ],
)
async def test_when_a_webhook_is_attempted_next_is_known(
    database: Database, state: str, seconds: float | None
) -> None:
    await execute(database, f"{ENDPOINT}; {EVENT}")
    await execute(database, "insert into webhook_delivery (position, endpoint_id, lane) select position, 'w1', lane from event")  # fmt: skip
    await execute(database, f"update webhook_delivery set {state}")
    found = await webhook_store.seconds_to_next(database, now=datetime.now(UTC))
    assert found == pytest.approx(seconds, abs=5.0) if seconds else found == seconds
    await execute(database, "update webhook_endpoint set disabled_at = now()")
    assert await webhook_store.seconds_to_next(database, now=datetime.now(UTC)) is None


async def test_a_webhook_is_tried_again_in_time_although_nobody_looks(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "REST_SECONDS", NEVER)
    monkeypatch.setattr(notices, "BUSY_SECONDS", 0.0)
    monkeypatch.setattr(webhooks, "POLL_SECONDS", OFTEN)
    told = Notices(database)
    worker, attempts = sender(database, told), 0

    async def refused(*_: object) -> tuple[AttemptOutcome, str]:
        nonlocal attempts
        attempts += 1
        return AttemptOutcome.UNREACHABLE, "no"

    worker._requests.post = refused  # type: ignore[method-assign]
    monkeypatch.setattr(webhooks, "wait_after", lambda *_, **__: timedelta(seconds=0.5))
    await execute(database, ENDPOINT)
    sealed = SEALER.seal("whsec_c2VjcmV0", endpoint="w1", generation=1).hex()
    await execute(database, f"update webhook_endpoint set secret = decode('{sealed}', 'hex')")
    running = [asyncio.create_task(told.run()), asyncio.create_task(worker.run())]
    await wait_until(lambda: told.is_listening, what="it listens")
    await append(database, numbered(1))
    await wait_until(lambda: attempts >= 3, what="it is tried again, and again")
    worker.stop()
    await _ended(*running)


async def test_when_a_connection_is_looked_at_next_is_known(database: Database) -> None:
    found = World(database).engine.lifecycle
    told = await found._rest_seconds(1.0)
    assert told == 1.0, "nobody tells"
    found._notices.is_listening = True
    assert await found._rest_seconds(1.0) == notices.REST_SECONDS, "there is none"
    await execute(database, f"{CUSTOMER}; {CONNECTION}")
    assert await found._rest_seconds(1.0) == notices.REST_SECONDS
    await execute(database, "update connection set probe_at = now() + interval '3 seconds'")
    assert 1.0 <= await found._rest_seconds(1.0) <= 3.0
    await execute(database, "update connection set state = 'pending', candidate = 1, probe_at = 'infinity'")
    assert await found._rest_seconds(1.0) == notices.REST_SECONDS


# Who has a rhythm of its own


async def test_a_replica_that_is_alone_looks_for_others_seldom(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And often from when it has found another: take-over within two seconds needs two replicas."""
    looked = 0

    def counted(name: str) -> str:
        nonlocal looked
        looked += name == "presence_ended"
        return sql(name)

    monkeypatch.setattr(presence, "sql", counted)
    for name in ("LOOK_SECONDS", "SETTLED_SECONDS", "RETURN_SECONDS"):
        monkeypatch.setattr(presence, name, 0.05)
    monkeypatch.setattr(presence, "ALONE_SECONDS", NEVER)
    alone = asyncio.create_task(Presence(database, "one", lease_seconds=NEVER).run())
    await wait_until(lambda: looked > 1, what="it looks")
    seen = -1
    while seen != looked:
        seen = looked
        await asyncio.sleep(0.3)
    other = asyncio.create_task(Presence(database, "two", lease_seconds=NEVER).run())
    await wait_until(lambda: looked >= seen + 20, what="the other looks after the first one")
    await _ended(alone, other)


async def test_devices_of_which_none_is_due_cost_one_statement_a_round(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "ROUND_SECONDS", 0.05)
    failing = Failing(database)
    watch = SilenceWatch(failing, lambda: settings(1), owner="one")
    running = asyncio.create_task(watch.run())
    await wait_until(lambda: failing.asked[sql("device_any_due")] >= 5, what="rounds have passed")
    assert failing.asked[sql("device_due")] == failing.asked[sql("device_changes_due")] == 0
    assert failing.asked[sql("lease_claim")] < failing.asked[sql("device_any_due")]
    await _ended(running)


async def test_gauges_are_read_when_they_are_shown(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing, readiness = Failing(database), Readiness()
    shown = Backlog(failing)
    readiness.serve(failing, lambda: True, shown.current)
    metrics.OUTBOX_PENDING.set(7)
    await asyncio.gather(*(readiness.exposition("") for _ in range(5)))
    text, _ = await readiness.exposition("")
    assert "fieldgate_outbox_pending_events 0.0" in text
    assert failing.asked[sql("outbox_pending")] == 1, "those of five seconds ago are good"
    monkeypatch.setattr(backlog, "REFRESH_SECONDS", 0.0)
    await append(database, numbered(1))
    text, _ = await readiness.exposition("")
    assert "fieldgate_outbox_pending_events 1.0" in text
    monkeypatch.setattr(backlog, "ANSWER_SECONDS", 0.1)
    async with shown._reading:  # the database does not answer
        text, _ = await readiness.exposition("")
    assert "fieldgate_outbox_pending_events 1.0" in text


async def test_links_that_are_served_are_not_looked_through(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "POLL_SECONDS", 0.5)
    links = World(database).engine
    follower = links.lifecycle._following
    assert follower._seconds_to_next() == 0.5
    links.notices.is_listening = True
    assert follower._seconds_to_next() == notices.REST_SECONDS
    links.links._waiting.add("acme-1")
    assert follower._seconds_to_next() == 0.5


async def test_a_server_of_which_nobody_asks_anything_wakes_up_once_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And stops at once all the same."""
    ticks = 0
    tick = server._Server.on_tick

    async def counted(self: server._Server, counter: int) -> bool:
        nonlocal ticks
        ticks += 1
        return await tick(self, counter)

    monkeypatch.setattr(server._Server, "on_tick", counted)
    monkeypatch.setattr(server, "TICK_SECONDS", NEVER)
    async with serving(Readiness()) as client:
        answer = await client.get("/healthz")
        assert answer.status_code == 200 and answer.headers["date"]
        await asyncio.sleep(0.3)
        assert ticks == 1
    assert ticks == 2
