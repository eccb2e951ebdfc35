"""What a customer may send: what is over it is kept, dropped or waits, always counted and told once; nobody
else notices.
"""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.servers import patient, wait_until
from gateway import clock
from gateway.ingest import quotas as module
from gateway.ingest.batch import Message
from gateway.ingest.decode import Decoder
from gateway.ingest.pipeline import Pipeline
from gateway.ingest.quotas import Quotas
from gateway.ingest.registry import Registry
from gateway.ingest.upkeep import QuotaUpkeep
from gateway.model.quota import BURST_SECONDS, Bucket, Excess, Quota, QuotaKind
from gateway.model.topics import owner_of, partition_of
from gateway.payloads.sources import compile_sources
from gateway.quota_settings import QuotasSettings
from gateway.settings import TelemetrySettings
from gateway.store import quotas as store
from gateway.store.devices import Devices
from gateway.store.pool import Database
from gateway.store.telemetry import TelemetryStore
from tests.unit.test_pipeline import Connection, committed, counted, running

_IDS = itertools.cycle(range(1, 65536))
USUAL = {"topic": "{customer}/devices/{device}/telemetry"}
NAMED = {"topic": "hub/{_}", "customer": {"path": "who"}, "device": {"path": "dev"}, "each": "list"}
TEN_A_MINUTE = 10 / BURST_SECONDS


def bounded(
    database: Database,
    *,
    owner: str | None = None,
    told: list[Excess] | None = None,
    sources: tuple[dict[str, Any], ...] = (USUAL,),
    customers: tuple[str, ...] = ("acme", "globex"),
    bounds: Quotas | None = None,
    **values: object,
) -> Pipeline:
    bounds = bounds or Quotas(QuotasSettings.model_validate(values), owner=owner)
    telemetry = TelemetrySettings.model_validate({"sources": list(sources)})
    compiled = compile_sources(telemetry.sources)
    writer = TelemetryStore(
        database, register_customers=True, max_devices=lambda customer: bounds.of(customer).devices
    )
    return Pipeline(
        telemetry,
        Decoder(telemetry, compiled, customers),
        writer,
        quotas=bounds,
        on_slowed=(lambda _: None) if told is None else told.append,
    )


def sent(count: int, customer: str = "acme", *, payload: bytes | None = None) -> list[Message]:
    return [
        (
            f"{customer}/devices/d/telemetry",
            json.dumps({"n": number}).encode() if payload is None else payload,
            next(_IDS),
            False,
        )
        for number in range(count)
    ]


async def rows(database: Database, query: str) -> list[tuple[object, ...]]:
    async with database.connection() as connection:
        return [tuple(row) for row in await connection.fetch(query)]


async def stored(database: Database) -> dict[str, int]:
    found = await rows(database, "select customer_id, count(*)::int from telemetry group by 1")
    return {str(customer): int(str(count)) for customer, count in found}


async def letters(database: Database) -> list[tuple[object, ...]]:
    return await rows(
        database,
        "select customer_id, reason, sum(occurrences)::int from dead_letter group by 1, 2 order by 1, 2",
    )


async def take(taking: Pipeline, session: Connection, *reads: list[Message]) -> None:
    for messages in reads:
        taking.receive(session, messages)
    await committed(taking)


async def test_what_a_customer_sends_beyond_is_kept_and_told_once_and_the_others_go_on(
    database: Database,
) -> None:
    session = Connection()
    taking = bounded(database, messages_per_second=TEN_A_MINUTE)
    await take(taking, session, sent(12), sent(7), sent(5, "globex"))
    await take(taking, session, sent(8))
    assert len(session.log) == 32, "all are acknowledged"
    assert await stored(database) == {"acme": 12, "globex": 5}, "the first read is charged when it is in"
    assert await letters(database) == [("acme", "over_quota", 15)]
    assert await rows(database, "select customer_id, quota, dead_letters, dropped from quota_excess") == [
        ("acme", "messages_per_second", 15, 0)
    ]
    assert await rows(database, "select type, customer_id, data ->> 'quota' from event") == [
        ("quota.exceeded", "acme", "messages_per_second")
    ]


async def test_bytes_count_whatever_the_message_is(database: Database) -> None:
    """Garbage too. What is written whole may not come as much at once as what is decoded: two seconds of
    bytes.
    """
    taking = bounded(database, bytes_per_second=600)
    garbage = [b"%d" % number + b"\xff" * 300 for number in range(10)]
    reads = [sent(1, payload=body) for body in garbage]
    await take(taking, Connection(), *reads, sent(3, "globex"))
    assert await letters(database) == [("acme", "invalid_json", 2), ("acme", "over_quota", 8)]
    assert await stored(database) == {"globex": 3}


async def test_what_is_kept_of_a_flood_is_bounded_in_bytes_and_the_rest_is_counted(
    database: Database,
) -> None:
    before = counted("dropped_over_quota")
    taking = bounded(database, messages_per_second=TEN_A_MINUTE, over_quota_bytes=20_000)
    bodies = [json.dumps({"n": number, "x": "y" * 900}).encode() for number in range(200)]
    session = Connection()
    await take(taking, session, sent(11), *(sent(1, payload=body) for body in bodies))
    [(kept, dropped, size)] = await rows(
        database, "select dead_letters::int, dropped::int, dropped_bytes::int from quota_excess"
    )
    assert len(session.log) == 211 and await stored(database) == {"acme": 11}
    assert int(str(kept)) + int(str(dropped)) == 200 and 0 < int(str(kept)) < 20
    assert await rows(database, "select sum(octet_length(payload)) < 20000 from dead_letter") == [(True,)]
    assert int(str(size)) == pytest.approx(int(str(dropped)) * len(bodies[-1]), rel=0.01)
    assert counted("dropped_over_quota") - before == dropped


async def test_what_is_told_is_committed_with_the_acknowledgement(database: Database) -> None:
    """Or neither: the batch whose counts cannot be written is not acknowledged."""
    taking, session = bounded(database, messages_per_second=TEN_A_MINUTE, over_quota_bytes=0), Connection()
    await take(taking, session, sent(11))
    async with database.connection() as connection:
        await connection.execute("alter table quota_excess rename to away")
    taking.receive(session, sent(4))
    async with running(taking):
        await wait_until(lambda: taking.is_stuck, seconds=20, what="the commit is refused")
        assert len(session.log) == 11
        async with database.connection() as connection:
            await connection.execute("alter table away rename to quota_excess")
        async with patient(20):
            await taking.drained()
    assert len(session.log) == 15
    assert await rows(database, "select dropped from quota_excess") == [(4,)]


async def test_who_has_the_partition_alone_is_slowed_and_loses_nothing(database: Database) -> None:
    told: list[Excess] = []
    taking = bounded(database, owner="acme", told=told, customers=("acme",), messages_per_second=100)
    session = Connection()
    async with running(taking):
        taking.receive(session, sent(6030))
        taking.receive(session, sent(20))
        assert session.log.count("pause") == 2 and taking.is_stuck
        async with patient(20):
            await taking.drained()
        await wait_until(lambda: "resume" in session.log, seconds=20, what="it reads on")
        assert not taking.is_stuck
    assert await stored(database) == {"acme": 6050} and await letters(database) == []
    assert [one.kind for one in told] == [QuotaKind.MESSAGES] * 2
    assert 0.2 < sum(one.slowed_seconds for one in told) <= 0.5, "50 messages late, less what passed"


async def test_what_waited_while_nobody_could_read_is_no_flood(database: Database) -> None:
    taking = bounded(database, messages_per_second=1)
    taking.grant_grace(600)
    await take(taking, Connection(), sent(300), sent(300), sent(59))
    assert await stored(database) == {"acme": 659} and await letters(database) == []
    await take(taking, Connection(), sent(5), sent(5))
    assert [reason for _, reason, _ in await letters(database)] == ["over_quota"]


async def test_the_messages_of_nobody_are_bounded_too(database: Database) -> None:
    taking = bounded(database, messages_per_second=TEN_A_MINUTE, over_quota_bytes=2_000)
    unknown = [(f"else/{number}", b"1", next(_IDS), False) for number in range(50)]
    await take(taking, Connection(), unknown[:11], unknown[11:], sent(3))
    assert await stored(database) == {"acme": 3}
    assert [tuple(row[:2]) for row in await letters(database)] == [
        (None, "over_quota"),
        (None, "unmatched_topic"),
    ]
    assert await rows(database, "select customer_id, dead_letters + dropped from quota_excess") == [("", 39)]
    assert await rows(database, "select type, customer_id from event") == [("quota.exceeded", None)]


async def test_a_customer_that_the_payload_names_is_charged_and_the_others_of_it_are_taken(
    database: Database,
) -> None:
    taking = bounded_named(database)
    body = json.dumps({"list": [{"who": "acme", "dev": "a", "v": 1}, {"who": "globex", "dev": "g", "v": 2}]})
    messages: list[Message] = [("hub/1", body.encode(), next(_IDS), False) for _ in range(30)]
    await take(taking, Connection(), *([one] for one in messages))
    found = await stored(database)
    assert found["globex"] == 30 and found["acme"] == 11
    assert await letters(database) == [("acme", "over_quota", 19)]


def bounded_named(database: Database) -> Pipeline:
    values = {"messages_per_second": TEN_A_MINUTE, "customers": {"globex": {"messages_per_second": 1000}}}
    bounds = Quotas(QuotasSettings.model_validate(values))
    telemetry = TelemetrySettings.model_validate({"sources": [NAMED]})
    decoder = Decoder(telemetry, compile_sources(telemetry.sources), ("acme", "globex"))
    return Pipeline(telemetry, decoder, TelemetryStore(database, register_customers=True), quotas=bounds)


async def test_an_excess_is_over_after_a_minute_without_and_summed_up(database: Database) -> None:
    taking = bounded(database, messages_per_second=TEN_A_MINUTE)
    await take(taking, Connection(), sent(12), sent(3))
    assert await store.end_calm(database) == []
    async with database.connection() as connection:
        await connection.execute("update quota_excess set last_at = last_at - interval '61 seconds'")
    [ended] = await store.end_calm(database)
    assert (ended.customer, ended.quota, ended.dead_letters) == ("acme", "messages_per_second", 3)
    assert await store.end_calm(database) == [] and await store.over(database, None, limit=9) == []
    await take(taking, Connection(), sent(4))
    [again] = await store.over(database, "acme", limit=9)
    assert again.dead_letters == 4 and again.since > ended.since, "another one begins"
    assert [row[0] for row in await rows(database, "select type from event order by position")] == [
        "quota.exceeded",
        "quota.recovered",
        "quota.exceeded",
    ]


async def test_what_is_stored_is_counted_and_bounds_what_comes(database: Database) -> None:
    full: list[frozenset[str]] = []
    limits = QuotasSettings.model_validate({"customers": {"acme": {"stored_bytes": 1 << 20}}})
    upkeep = QuotaUpkeep(limits, database, full.append)
    telemetry = TelemetrySettings.model_validate({"sources": [USUAL]})
    bounds = Quotas(limits)
    writer = TelemetryStore(database, register_customers=True, on_stored_bytes=upkeep.add_stored)
    decoder = Decoder(telemetry, compile_sources(telemetry.sources), ("acme", "globex"))
    taking = Pipeline(telemetry, decoder, writer, quotas=bounds)
    many = [
        (f"{who}/devices/d/telemetry", json.dumps({"n": n, "x": "y" * 1000}).encode(), next(_IDS), False)
        for n in range(900)
        for who in ("acme", "globex")
    ]
    await take(taking, Connection(), many)
    await upkeep.flush()
    held = await store.stored(database, None)
    assert held["acme"] == pytest.approx(900 * 1215, rel=0.02) and held["globex"] == held["acme"]
    assert full == [frozenset({"acme"})]
    await take(taking, Connection(), many[:2])
    assert (await stored(database)).values() != {}, "what is there already was"
    bounds.set_full(full[-1])
    await take(taking, Connection(), sent(2), sent(2, "globex"))
    assert (await letters(database)) == [("acme", "over_quota", 2)]
    assert (await stored(database))["globex"] == (await stored(database))["acme"] + 2
    bounds.set_full(frozenset())
    await take(taking, Connection(), sent(2))
    assert (await stored(database))["globex"] == (await stored(database))["acme"]


async def test_a_device_with_more_metrics_than_its_quota_is_told(database: Database) -> None:
    told: list[Excess] = []
    registry = Registry(database)
    registry.limit_metrics(
        QuotasSettings.model_validate({"customers": {"acme": {"metrics_per_device": 3}}}), told.append
    )
    writer = TelemetryStore(database, register_customers=True)
    for customer in ("acme", "globex"):
        for number in range(5):
            at = clock.now_microseconds()
            sample = ((customer, "d", at), {f"m{number}": 1, "t": number}, at)
            await writer.write([sample], ())
            registry.note([sample])
            await registry.flush()
    assert {(one.customer, one.kind, one.device) for one in told} == {("acme", QuotaKind.METRICS, "d")}
    devices = Devices(database)
    for customer, names in (("acme", {"m3", "m4", "t"}), ("globex", {"m0", "m1", "m2", "m3", "m4", "t"})):
        found = await devices.one(customer, "d")
        assert found is not None and {metric.name for metric in found.metrics} == names


async def test_names_that_compress_well_are_no_more_than_allowed(database: Database) -> None:
    """A row that PostgreSQL holds compressed looks small."""
    registry = Registry(database)
    registry.limit_metrics(QuotasSettings.model_validate({"metrics_per_device": 120}), lambda _: None)
    writer = TelemetryStore(database, register_customers=True)
    for step in range(40):
        at = clock.now_microseconds()
        sample = (
            ("acme", "d", at),
            {f"channel{number}": 1 for number in range(10 * step, 10 * step + 10)},
            at,
        )
        await writer.write([sample], ())
        registry.note([sample])
        await registry.flush()
        [(held,)] = await rows(
            database, "select count(*)::int from device_state, jsonb_object_keys(metrics) as name"
        )
        assert held == min(10 * step + 10, 120)


# The decisions alone


def test_whose_partition_it_is() -> None:
    def owner(customers: list[str], partitions: int, partition: int, *sources: dict[str, Any]) -> str | None:
        telemetry = TelemetrySettings.model_validate({"sources": list(sources or (USUAL,))})
        plain = [one.source for one in compile_sources(telemetry.sources)]
        return owner_of(plain, customers, partition=partition, partitions=partitions)

    names = ["acme", "globex", "initech", "umbrella"]
    assert owner(["acme"], 1, 0) == "acme" and owner(names, 1, 0) is None
    for partition in range(4):
        mine = [name for name in names if partition_of(name, 4) == partition]
        assert owner(names, 4, partition) == (mine[0] if len(mine) == 1 else None)
        fixed = {"topic": "line/{device}", "customer": "acme"}
        assert owner(["globex"], 4, partition_of("globex", 4), USUAL, fixed) == (
            None if partition_of("acme", 4) == partition_of("globex", 4) else "globex"
        )
    assert owner(["acme", "globex"], 1, 0, USUAL, {**fixed, "customer": "acme"}) is None
    anybody = {"topic": "hub/{device}", "customer": {"path": "who"}}
    for partition in range(4):
        alone = owner(names, 4, partition, USUAL, anybody)
        if partition_of("hub/{device}", 4) == partition:
            assert alone is None


@settings(max_examples=200, deadline=None)
@given(
    rate=st.floats(0.1, 1000),
    steps=st.lists(st.tuples(st.floats(0, 120), st.integers(1, 500)), max_size=40),
)
def test_no_more_passes_than_a_minute_of_the_rate_and_what_time_gives(
    rate: float, steps: list[tuple[float, int]]
) -> None:
    """The oracle: over the whole time, burst + rate x time, and one message that crosses the line."""
    quota = Quota(
        messages_per_second=rate, bytes_per_second=1e12, devices=1, metrics_per_device=1, stored_bytes=None
    )
    now, passed, total = 0.0, 0, 0
    bucket = Bucket(now)
    for wait, count in steps:
        now += wait
        bucket.refill(now)
        before = passed
        passed += sum(bucket.refusal(quota, 1) is None for _ in range(count))
        total += count
        assert passed <= rate * (BURST_SECONDS + now) + 1
        if passed - before < count:
            assert bucket.messages <= 0, "nobody is refused who has something left"
    assert passed <= total


def test_customers_that_are_invented_hold_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those over quota stay so."""
    monkeypatch.setattr(module, "MAX_BUCKETS", 4)
    bounds = Quotas(QuotasSettings.model_validate({"messages_per_second": 1}))
    bounds.charge({"acme": [100, 1]}, 0.0)
    for number in range(50):
        bounds.charge({f"c{number}": [1, 1]}, 0.0)
    assert len(bounds._buckets) <= 6
    assert bounds.watched == {"acme"} and bounds.refusal("acme", 1, 1.0) == QuotaKind.MESSAGES


def test_a_reload_changes_the_quota_and_no_bucket() -> None:
    bounds = Quotas(QuotasSettings.model_validate({"messages_per_second": 1}))
    bounds.charge({"acme": [90, 1]}, 0.0)
    assert bounds.refusal("acme", 1, 1.0) == QuotaKind.MESSAGES
    bounds.reload(QuotasSettings.model_validate({"customers": {"acme": {"messages_per_second": 50}}}), None)
    assert bounds.of("acme").messages_per_second == 50 and bounds.of("globex").messages_per_second == 5000
    assert bounds.refusal("acme", 1, 32.0) is None
    assert bounds.watched == {"acme"}
    assert bounds.refusal("acme", 1, 32.0 + 2 * BURST_SECONDS) is None and not bounds.watched


BEGIN = int(time.time() * 1000) - 600_000


def many(samples: int, customer: str = "acme", *, topic: str = "{}/devices/d/telemetry") -> Message:
    """One message of so many samples, of which the first are always at the same instants."""
    items: list[dict[str, object]] = [
        {"ts": BEGIN + number, "metrics": {"n": 1}} for number in range(samples)
    ]
    if topic.startswith("hub/"):
        items = [{"ts": BEGIN + number, "who": customer, "dev": "d", "n": 1} for number in range(samples)]
    body: object = {"list": items} if topic.startswith("hub/") else items
    return topic.format(customer), json.dumps(body).encode(), next(_IDS), False


@pytest.mark.parametrize("watched", [(), ("globex",)], ids=["nobody is watched", "another is watched"])
async def test_a_message_of_many_samples_counts_as_many(database: Database, watched: tuple[str, ...]) -> None:
    """It costs the commit as much: else a customer has a hundred times of its quota by packing."""
    taking = bounded(database, messages_per_second=TEN_A_MINUTE)
    floods = [sent(12, customer) for customer in watched]
    await take(taking, Connection(), *floods, [many(12)], [many(3)])
    assert (await stored(database))["acme"] == 12
    assert await letters(database) == [("acme", "over_quota", 1)]


async def test_a_message_of_many_samples_counts_as_many_of_who_is_watched(database: Database) -> None:
    """What crosses the line is taken whole, and waited for afterwards."""
    bounds = Quotas(QuotasSettings.model_validate({"messages_per_second": TEN_A_MINUTE}))
    bounds.watched.add("acme")
    taking = bounded(database, bounds=bounds)
    await take(taking, Connection(), [many(3), many(3), many(30)], [many(1)])
    assert await stored(database) == {"acme": 30}, "three times the same instants, and the rest"
    assert await letters(database) == [("acme", "over_quota", 1)]
    behind = -bounds._buckets["acme"].messages * TEN_A_MINUTE
    assert behind == pytest.approx(26, abs=0.5)


async def test_samples_of_a_customer_that_the_payload_names_count_each(database: Database) -> None:
    taking = bounded_named(database)
    hub = [many(6, topic="hub/1"), many(6, topic="hub/1"), many(6, topic="hub/2"), many(1, topic="hub/2")]
    await take(taking, Connection(), *([one] for one in hub))
    assert [reason for _, reason, _ in await letters(database)] == ["over_quota"]
    found = await rows(database, "select sum(dead_letters)::int from quota_excess")
    assert found == [(2,)]


async def test_samples_slow_who_has_the_partition_alone(database: Database) -> None:
    told: list[Excess] = []
    taking = bounded(database, owner="acme", told=told, messages_per_second=1)
    await take(taking, Connection(), [many(90)])
    assert await stored(database) == {"acme": 90} and await letters(database) == []
    assert [round(one.slowed_seconds) for one in told] == [30]
