"""Sparkplug B from the pipeline to the database: what births say is stored with what
they sent, and survives.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from benchmarks.servers import wait_until
from gateway import clock
from gateway.clock import now_microseconds
from gateway.ingest import host
from gateway.ingest.decode import Decoder
from gateway.ingest.host import Host
from gateway.ingest.messages import Messages
from gateway.ingest.pipeline import Pipeline
from gateway.ingest.quotas import Quotas
from gateway.ingest.replay import Failed, Replay
from gateway.ingest.sparkplug import NodeTopic
from gateway.model.quota import BURST_SECONDS
from gateway.payloads.sources import compile_sources
from gateway.payloads.sparkplug import births
from gateway.payloads.sparkplug.births import MAX_BIRTHS
from gateway.payloads.sparkplug.wire import COMPRESSED, PAYLOAD, parse
from gateway.quota_settings import QuotasSettings
from gateway.settings import Settings, TelemetrySettings
from gateway.store import sparkplug as store
from gateway.store.devices import Devices
from gateway.store.pool import Database
from gateway.store.telemetry import TelemetryStore

INT32, INT64, DOUBLE, BOOLEAN, STRING = 3, 4, 10, 11, 12


class Connection:
    """A TCP connection to a broker that acknowledges nothing itself."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self.published: list[tuple[str, bytes]] = []

    def acknowledge(self, packets: bytes) -> bool:
        self.acknowledged += len(packets) // 4
        return True

    def pause(self) -> None:
        """Nothing."""

    def resume(self) -> None:
        """Nothing."""

    def publish(self, topic: str, payload: bytes) -> bool:
        self.published.append((topic, payload))
        return True


def payload(at: int, seq: int | None, *metrics: dict[str, Any]) -> bytes:
    """`at` in milliseconds."""
    message: Any = PAYLOAD(timestamp=at) if seq is None else PAYLOAD(timestamp=at, seq=seq)
    for metric in metrics:
        message.metrics.add(**{"timestamp": at, **metric})
    return message.SerializeToString()


class Site:
    """A gateway's ingest on a database, killed and started at will."""

    def __init__(self, database: Database, *, quotas: Quotas | None = None, **settings: object) -> None:
        self.database, self.quotas = database, quotas
        self.settings = TelemetrySettings.model_validate(
            {
                "auto_register_customers": True,
                "sources": [{"topic": "spBv1.0/{customer}/#", "format": "sparkplug_b"}],
                "sparkplug": {"reorder_timeout": "10ms", "rebirth_interval": "1h"},
                **settings,
            }
        )
        self.at = now_microseconds() // 1000 - 100_000
        self.connection = Connection()
        self.restart()

    def restart(self) -> None:
        """As after SIGKILL: what was in memory is gone."""
        decoder = Decoder(self.settings, compile_sources(self.settings.sources), (), defers_sparkplug=True)
        self.host = Host(self.settings.sparkplug, self.database)
        self.pipeline = Pipeline(
            self.settings,
            decoder,
            TelemetryStore(self.database, register_customers=True),
            host=self.host,
            quotas=self.quotas,
        )

    def node_topic(self, topic: str, payload: bytes) -> NodeTopic:
        """What the topic of a message says."""
        self.pipeline.decoder.decode(topic, payload, self.at * 1000)
        found = self.pipeline.decoder.node_topic_of(topic)
        assert found is not None
        return found

    async def receive(self, *messages: tuple[str, bytes]) -> None:
        """One read; returns when all of it is committed."""
        task = asyncio.create_task(self.pipeline.run())
        rows = [(f"spBv1.0/{topic}", data, 7, False) for topic, data in messages]
        self.pipeline.receive(self.connection, rows)  # type: ignore[arg-type]
        drained = asyncio.create_task(self.pipeline.drained())
        await asyncio.wait({task, drained}, return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    async def stored(self) -> list[tuple[str, int, dict[str, object]]]:
        """Device, milliseconds after the start, metrics."""
        async with self.database.connection() as connection:
            rows = await connection.fetch(
                "select device_id, (extract(epoch from ts) * 1000)::bigint as at, metrics from telemetry"
                " order by ts, device_id"
            )
        return [(row["device_id"], row["at"] - self.at, row["metrics"]) for row in rows]

    async def dead(self) -> list[tuple[str, str]]:
        async with self.database.connection() as connection:
            rows = await connection.fetch("select topic, reason from dead_letter order by dead_letter_id")
        return [(row["topic"].removeprefix("spBv1.0/"), row["reason"]) for row in rows]

    async def dead_letter(self, payload: bytes) -> int:
        async with self.database.connection() as connection:
            return int(
                await connection.fetchval(
                    "select dead_letter_id from dead_letter where payload = $1", payload
                )
            )

    def birth(self, after: int = 0, *, seq: int = 0, bd_seq: int = 1, **aliases: int) -> bytes:
        """NBIRTH with `Speed` (Int32) and `Name`, under the aliases 1 and 2 or the given ones."""
        names = aliases or {"Speed": 1, "Name": 2}
        return payload(
            self.at + after,
            seq,
            {"name": "bdSeq", "datatype": INT64, "long_value": bd_seq},
            *(
                (
                    {"name": name, "alias": alias, "datatype": STRING, "string_value": name.lower()}
                    if name == "Name"
                    else {"name": name, "alias": alias, "datatype": INT32, "int_value": alias}
                )
                for name, alias in names.items()
            ),
        )

    def device_birth(self, after: int, seq: int, alias: int = 10) -> bytes:
        return payload(
            self.at + after, seq, {"name": "Flow", "alias": alias, "datatype": DOUBLE, "double_value": 0.5}
        )

    def data(self, after: int, seq: int, alias: int = 1, value: int = 2**32 - 7) -> bytes:
        return payload(self.at + after, seq, {"alias": alias, "int_value": value})


@pytest.fixture
def site(database: Database) -> Site:
    return Site(database)


async def test_more_births_than_are_remembered_may_come_at_once(site: Site) -> None:
    births = [
        payload(
            site.at + place, 0, {"name": f"m{place}", "alias": 1, "datatype": DOUBLE, "double_value": 1.0}
        )
        for place in range(MAX_BIRTHS + 10)
    ]
    await site.receive(*(("acme/NBIRTH/edge", birth) for birth in births))
    assert len(await site.stored()) == len(births) and await site.dead() == []
    site.restart()
    await site.receive(("acme/NDATA/edge", payload(site.at + 90, 1, {"alias": 1, "double_value": 2.0})))
    assert (await site.stored())[-1] == ("edge", 90, {f"m{MAX_BIRTHS + 9}": 2.0})


async def test_devices_that_a_node_makes_up_fill_neither_memory_nor_tables(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(births, "MAX_DEFINED", 100)

    def birth(place: int, device: str) -> tuple[str, bytes]:
        metrics = [
            {"name": f"{device}{n}", "alias": n, "datatype": DOUBLE, "is_null": True} for n in range(9)
        ]
        return f"acme/DBIRTH/edge/{device}", payload(site.at + place, place % 256, *metrics)

    await site.receive(("acme/NBIRTH/edge", site.birth()))
    await site.receive(*(birth(place, f"d{place}") for place in range(1, 40)))
    assert {reason for _, reason in await site.dead()} == {"too_many_metrics"}
    held = site.host._nodes["acme", "acme/edge"]
    assert sum(len(one.lines) for one in held.births.definitions.values()) <= 100
    await site.receive(
        ("acme/DDATA/edge/d1", payload(site.at + 40, 40, {"alias": 3, "double_value": 2.5})),
        *((f"acme/DDEATH/edge/never-{n}", payload(site.at + 41, 41 + n)) for n in range(50)),
    )
    assert (await site.stored())[-1] == ("edge.d1", 40, {"d13": 2.5})
    async with site.database.connection() as connection:
        assert await connection.fetchval("select count(*) from sparkplug_definitions") < 12
        assert await connection.fetchval("select count(*) from sparkplug_device") < 12
    # a node that is born again makes room: what its births said before does not count any more
    await site.receive(("acme/NBIRTH/edge", site.birth(1000, bd_seq=2)))
    await site.receive(("acme/DBIRTH/edge/new", birth(1025, "new")[1]))
    assert "new" in site.host._nodes["acme", "acme/edge"].births.devices


async def test_others_have_their_turn_between_long_births(site: Site) -> None:
    """What one read brings may take a second to read."""
    births = [
        payload(
            site.at, 0, *({"name": f"m{n}", "datatype": DOUBLE, "double_value": 1.0} for n in range(3000))
        )
    ] * 20
    letters = [
        host.UnreadMessage(
            topic=f"spBv1.0/acme/NBIRTH/e{place}",
            payload=birth,
            received_at=site.at * 1000,
            is_retained=False,
            node_topic=site.node_topic(f"spBv1.0/acme/NBIRTH/e{place}", birth),
        )
        for place, birth in enumerate(births)
    ]
    opening = asyncio.create_task(site.host.read(letters, site.pipeline.decoder))
    turns, longest = 0, 0.0
    while not opening.done():
        before = time.process_time()
        await asyncio.sleep(0)
        longest, turns = max(longest, time.process_time() - before), turns + 1
    assert len(opening.result().taken) == 20
    started = time.process_time()
    await Host(site.settings.sparkplug, site.database).read(letters[:1], site.pipeline.decoder)
    assert longest < 6 * (time.process_time() - started)


def packed(at: int, seq: int, count: int) -> bytes:
    """A message of so many metrics without a value, which becomes short when it is packed."""
    inner = payload(at, seq, *({"name": f"m{n}", "datatype": DOUBLE, "is_null": True} for n in range(count)))
    return bytes(
        PAYLOAD(timestamp=at, seq=seq, uuid=COMPRESSED, body=zlib.compress(inner)).SerializeToString()
    )


async def test_a_packed_message_weighs_what_is_in_it(database: Database) -> None:
    quotas = Quotas(QuotasSettings.model_validate({"bytes_per_second": 100_000}))
    site = Site(database, quotas=quotas)
    held = 0
    birth = packed(site.at, 0, 19_000)
    assert len(birth) < 100_000
    for place in range(40):
        before = site.pipeline._in_hand.bytes
        site.pipeline.receive(site.connection, [(f"spBv1.0/acme/NBIRTH/e{place}", birth, 7, False)])
        held = site.pipeline._in_hand.bytes - before
        if place == 0:
            assert held > 300_000 * 3
        if quotas.watched:
            break
    assert BURST_SECONDS * 100_000 / 1_000_000 < place < 20


async def test_what_a_message_was_read_of_is_not_kept(site: Site) -> None:
    topic, birth = "spBv1.0/acme/NBIRTH/e", packed(site.at, 0, 5_000)
    letter = host.UnreadMessage(
        topic=topic,
        payload=birth,
        received_at=site.at * 1000,
        is_retained=False,
        node_topic=site.node_topic(topic, birth),
    )
    opened = await site.host.read([letter], site.pipeline.decoder)
    assert [len(one.skipped) + len(one.arrival.payload.metrics) for one in opened.taken] == [0]


async def test_births_give_data_their_names_over_a_restart(site: Site) -> None:
    await site.receive(
        ("acme/NBIRTH/edge", site.birth()),
        ("acme/DBIRTH/edge/pump", site.device_birth(1, 1)),
        ("acme/NDATA/edge", site.data(2, 2)),
    )
    site.restart()
    await site.receive(
        ("acme/NDATA/edge", site.data(3, 3, value=8)),
        ("acme/DDATA/edge/pump", payload(site.at + 4, 4, {"alias": 10, "double_value": 2.5})),
    )
    assert await site.stored() == [
        ("edge", 0, {"Speed": 1, "Name": "name"}),
        ("edge.pump", 1, {"Flow": 0.5}),
        ("edge", 2, {"Speed": -7}),
        ("edge", 3, {"Speed": 8}),
        ("edge.pump", 4, {"Flow": 2.5}),
    ]
    assert await site.dead() == []
    assert site.connection.acknowledged == 5
    site.host.ask(site.connection.publish)
    assert site.connection.published == []


async def test_data_before_a_birth_is_a_dead_letter_and_asks_once(site: Site) -> None:
    await site.receive(("acme/NDATA/edge", site.data(0, 5)), ("acme/NDATA/edge", site.data(1, 6)))
    assert await site.dead() == [("acme/NDATA/edge", "before_birth")] * 2
    for _ in range(3):
        site.host.ask(site.connection.publish)
    [(topic, command)] = site.connection.published
    [metric] = parse(command).metrics
    assert topic == "spBv1.0/acme/NCMD/edge"
    assert (metric.name, metric.boolean_value) == ("Node Control/Rebirth", True)


async def test_what_names_itself_needs_no_birth(site: Site) -> None:
    await site.receive(
        ("acme/NDATA/edge", payload(site.at, 9, {"name": "Flow", "double_value": 1.5})),
        ("acme/DDATA/edge/pump", payload(site.at, 10, {"name": "On", "boolean_value": True})),
    )
    assert await site.stored() == [("edge", 0, {"Flow": 1.5}), ("edge.pump", 0, {"On": True})]
    assert await site.dead() == []


async def test_an_alias_that_no_birth_has_leaves_the_rest_and_the_message(site: Site) -> None:
    await site.receive(
        ("acme/NBIRTH/edge", site.birth()),
        (
            "acme/NDATA/edge",
            payload(site.at + 1, 1, {"alias": 1, "int_value": 3}, {"alias": 99, "int_value": 4}),
        ),
    )
    assert (await site.stored())[-1] == ("edge", 1, {"Speed": 3})
    assert await site.dead() == [("acme/NDATA/edge", "unknown_alias")]
    site.host.ask(site.connection.publish)
    assert len(site.connection.published) == 1


async def test_a_late_message_heals_the_gap(site: Site) -> None:
    await site.receive(("acme/NBIRTH/edge", site.birth()), ("acme/NDATA/edge", site.data(2, 2, value=2)))
    assert await site.dead() == [("acme/NDATA/edge", "sequence_gap")]
    await site.receive(("acme/NDATA/edge", site.data(1, 1, value=1)))
    assert [sample[2] for sample in await site.stored()][1:] == [{"Speed": 1}, {"Speed": 2}]
    assert await site.dead() == []
    await asyncio.sleep(0.02)
    site.host.ask(site.connection.publish)
    assert site.connection.published == []


async def test_a_gap_that_stays_asks_for_a_birth_when_its_time_is_over(site: Site) -> None:
    await site.receive(("acme/NBIRTH/edge", site.birth()), ("acme/NDATA/edge", site.data(2, 2)))

    async def asked() -> bool:
        site.host.ask(site.connection.publish)
        return bool(site.connection.published)

    await wait_until(asked, seconds=5, what="the node is asked")
    await site.receive(
        ("acme/NBIRTH/edge", site.birth(3, Name=1, Speed=2)),
        ("acme/NDATA/edge", site.data(4, 1, alias=2, value=5)),
    )
    assert (await site.stored())[-1] == ("edge", 4, {"Speed": 5})
    assert await site.dead() == [("acme/NDATA/edge", "sequence_gap")]


async def test_a_gap_is_remembered_over_a_restart(site: Site) -> None:
    """Number 1 may have been a birth that gave the aliases other names; 1 comes again in the next round."""
    await site.receive(("acme/NBIRTH/edge", site.birth()), ("acme/NDATA/edge", site.data(2, 2)))
    site.restart()
    await site.receive(("acme/NDATA/edge", site.data(300, 1)))
    assert await site.stored() == [("edge", 0, {"Speed": 1, "Name": "name"})]
    assert await site.dead() == [("acme/NDATA/edge", "sequence_gap")] * 2


async def test_what_comes_again_is_read_by_the_birth_of_its_time(site: Site) -> None:
    """Committed, and killed before the broker was told: it sends all of it again, births too."""
    messages = [
        ("acme/NBIRTH/edge", site.birth()),
        ("acme/NDATA/edge", site.data(1, 1, value=1)),
        ("acme/NBIRTH/edge", site.birth(2, Speed=2, Level=1)),
        ("acme/NDATA/edge", site.data(3, 1, value=9)),
    ]
    await site.receive(*messages)
    before = await site.stored()
    for start in range(len(messages)):
        site.restart()
        await site.receive(*messages[start:])
        assert await site.stored() == before
    assert before[1][2] == {"Speed": 1}
    assert before[3][2] == {"Level": 9}
    assert await site.dead() == []


async def test_a_death_of_an_older_session_is_none(site: Site) -> None:
    death = payload(site.at, None, {"name": "bdSeq", "datatype": INT64, "long_value": 1})
    await site.receive(
        ("acme/NBIRTH/edge", site.birth(bd_seq=1)),
        ("acme/NBIRTH/edge", site.birth(1, bd_seq=2)),
        ("acme/NDEATH/edge", death),
        ("acme/NDATA/edge", site.data(2, 1, value=1)),
    )
    assert (await site.stored())[-1] == ("edge", 2, {"Speed": 1})
    assert await _offline(site.database) == {"edge": False}


async def test_a_death_takes_the_devices_with_it_until_they_are_born_again(site: Site) -> None:
    death = payload(site.at, None, {"name": "bdSeq", "datatype": INT64, "long_value": 1})
    await site.receive(
        ("acme/NBIRTH/edge", site.birth()),
        ("acme/DBIRTH/edge/pump", site.device_birth(1, 1)),
        ("acme/DBIRTH/edge/fan", site.device_birth(2, 2, alias=11)),
        ("acme/NDEATH/edge", death),
        ("acme/DDATA/edge/pump", payload(site.at + 3, 3, {"alias": 10, "double_value": 2.5})),
    )
    assert await _offline(site.database) == {"edge": True, "edge.pump": True, "edge.fan": True}
    assert await site.dead() == [("acme/DDATA/edge/pump", "before_birth")]
    await site.receive(
        ("acme/NBIRTH/edge", site.birth(4, bd_seq=2)),
        ("acme/DBIRTH/edge/pump", site.device_birth(5, 1)),
        ("acme/DDEATH/edge/pump", payload(site.at + 6, 2)),
        ("acme/DBIRTH/edge/fan", site.device_birth(7, 3, alias=11)),
    )
    assert await _offline(site.database) == {"edge": False, "edge.pump": True, "edge.fan": False}


async def _offline(database: Database) -> dict[str, bool]:
    async with database.connection() as connection:
        rows = await connection.fetch("select device_id, offline_since from sparkplug_device")
    return {row["device_id"]: row["offline_since"] is not None for row in rows}


async def test_hostile_names_and_numbers_reach_no_statement_that_they_break(site: Site) -> None:
    huge = 2**64 - 1
    message: Any = PAYLOAD(timestamp=huge, seq=huge)
    for name in ("a\0b", "x" * 3000, "\n", "ok"):
        message.metrics.add(name=name, alias=len(name), datatype=8, long_value=7, timestamp=site.at)
    message.metrics.add(name="bdSeq", long_value=huge)
    message.metrics.add(name="late", datatype=8, long_value=7, timestamp=huge)
    await site.receive(
        ("acme/NBIRTH/edge", message.SerializeToString()),
        (f"acme/DBIRTH/{'ü' * 128}/{'ß' * 128}", site.device_birth(0, 1)),
        (f"acme/DBIRTH/edge/{'d' * 257}", site.device_birth(0, 1)),
        ("acme/NBIRTH/edge.2", site.birth()),
        ("acme/NBIRTH/edge", b"\xff\xff"),
    )
    assert {"ok": 7} in [sample[2] for sample in await site.stored()]
    assert sorted(reason for _, reason in await site.dead()) == ["invalid_identifier", "wrong_shape"]
    site.restart()
    await site.receive(("acme/NDATA/edge.2", site.data(1, 1, value=5)))
    assert (await site.stored())[-1][2] == {"Speed": 5}


async def test_a_dead_letter_is_replayed_by_aliases_that_never_changed(site: Site) -> None:
    settings = Settings.model_validate(
        {
            "customers": ["acme"],
            "security": {"encryption_keys": ["k" * 44]},
            "telemetry": {"sources": [{"topic": "spBv1.0/{customer}/#", "format": "sparkplug_b"}]},
        }
    )
    steady, moved = site.data(-2, 5, alias=1, value=7), site.data(-1, 6, alias=2, value=8)
    await site.receive(
        ("acme/NDATA/edge", steady),
        ("acme/NDATA/edge", moved),
        ("acme/NBIRTH/edge", site.birth(0, Speed=1, Level=2)),
        ("acme/NBIRTH/edge", site.birth(1, Speed=1, Depth=2)),
    )
    assert len(await site.dead()) == 2
    asked, replay = Messages(settings, site.database), Replay(settings, site.database)
    told = [await asked.one(await site.dead_letter(each)) for each in (steady, moved)]
    taken, refused = [one.explanation for one in told if one is not None and one.explanation is not None]
    assert (taken.dead_letter, taken.samples[0].metrics) == (None, {"Speed": 7}), "as a replay would take it"
    assert "do not agree" in (refused.detail or "")
    assert await replay.one(await site.dead_letter(steady), now=clock.now()) == 1
    assert (await site.stored())[0] == ("edge", -2, {"Speed": 7})
    stays = await replay.one(await site.dead_letter(moved), now=clock.now())
    assert isinstance(stays, Failed) and "do not agree" in stays.detail


async def test_what_a_node_sends_over_its_customers_quota_is_kept_as_of_anybody(database: Database) -> None:
    """The read that crosses the line is taken whole; what comes behind it is a dead letter, undecoded."""
    bounds = QuotasSettings.model_validate({"messages_per_second": 10 / BURST_SECONDS})
    site = Site(database, quotas=Quotas(bounds))
    data = [site.data(10 * number, number, alias=1, value=number) for number in range(1, 16)]
    await site.receive(("acme/NBIRTH/edge", site.birth()), *(("acme/NDATA/edge", each) for each in data[:11]))
    assert site.quotas is not None and site.quotas.watched == {"acme"}
    await site.receive(*(("acme/NDATA/edge", each) for each in data[11:]))
    await site.receive(("globex/NBIRTH/edge", site.birth()))
    assert await site.dead() == [("acme/NDATA/edge", "over_quota")] * 4
    async with database.connection() as connection:
        told = await connection.fetch("select customer_id, quota, dead_letters from quota_excess")
        taken = await connection.fetch("select customer_id, count(*) from telemetry group by 1 order by 1")
    assert [tuple(row) for row in told] == [("acme", "messages_per_second", 4)]
    assert [tuple(row) for row in taken] == [("acme", 12), ("globex", 1)]


async def test_samples_of_a_node_count_each(database: Database) -> None:
    """Metrics of one message that have times of their own are as many samples."""
    bounds = QuotasSettings.model_validate({"messages_per_second": 10 / BURST_SECONDS})
    site = Site(database, quotas=Quotas(bounds))
    packed = payload(
        site.at + 50,
        1,
        *({"alias": 1, "int_value": number, "timestamp": site.at + number} for number in range(1, 16)),
    )
    await site.receive(("acme/NBIRTH/edge", site.birth()), ("acme/NDATA/edge", packed))
    assert site.quotas is not None and site.quotas.watched == {"acme"}
    await site.receive(("acme/NDATA/edge", site.data(60, 2)), ("globex/NBIRTH/edge", site.birth()))
    assert await site.dead() == [("acme/NDATA/edge", "over_quota")]
    assert len(await site.stored()) == 17, "a birth each, and fifteen"


async def test_garbage_of_nodes_is_bounded_and_what_waits_for_a_birth_is_kept(database: Database) -> None:
    """Each dead letter is written whole: of garbage two seconds' worth of bytes, whatever format it is of."""
    bounds = QuotasSettings.model_validate({"bytes_per_second": 10_000, "over_quota_bytes": 0})
    site = Site(database, quotas=Quotas(bounds))
    garbage = [("acme/NDATA/edge", bytes([255, number]) * 2_500) for number in range(20)]
    waiting = [site.data(10 * number, number, alias=1, value=number) for number in range(1, 4)]
    await site.receive(*garbage, *(("acme/NDATA/edge", each) for each in waiting))
    reasons = Counter(reason for _, reason in await site.dead())
    assert reasons.pop("before_birth") == 3
    assert sum(reasons.values()) == 4, "20,000 bytes, and the one that crosses"
    async with database.connection() as connection:
        told = await connection.fetch("select quota, dead_letters, dropped from quota_excess")
    assert [tuple(row) for row in told] == [("bytes_per_second", 0, 16)]


async def test_who_is_offline_is_shown_with_the_devices(site: Site) -> None:
    await site.receive(
        ("acme/NBIRTH/edge", site.birth()),
        ("acme/DBIRTH/edge/pump", site.device_birth(1, 1)),
        ("acme/DDEATH/edge/pump", payload(site.at + 2, 2)),
    )
    listed = {one.device: one.offline_since for one in await Devices(site.database).page("acme", limit=10)}
    assert listed["edge"] is None
    assert listed["edge.pump"] is not None
    assert round(listed["edge.pump"].timestamp() * 1000) == site.at + 2
    found = await Devices(site.database).one("acme", "edge.pump")
    assert found is not None
    assert found.device.offline_since == listed["edge.pump"]


async def test_nodes_that_sent_nothing_for_long_are_forgotten(site: Site) -> None:
    await site.receive(("acme/NBIRTH/edge", site.birth()))
    await store.forget(site.database, timedelta(hours=1))
    assert await store.load(site.database, [("acme", "acme/edge")])
    await store.forget(site.database, timedelta(0))
    assert await _offline(site.database) == {}


async def test_names_that_somebody_makes_up_fill_no_memory_and_are_asked_in_turns(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "MAX_NODES", 50)
    monkeypatch.setattr(host, "MAX_ASKED", 10)
    for made in range(20):
        await site.receive(
            *((f"acme/NDATA/n{made}-{each}", site.data(each, 5, alias=1, value=7)) for each in range(20))
        )
    assert len(site.host._nodes) <= 50
    site.host.ask(site.connection.publish)
    assert len(site.connection.published) == 10
    for _ in range(10):
        site.host.ask(site.connection.publish)
    asked = [topic for topic, _ in site.connection.published]
    assert len(asked) == len(set(asked)) == len(site.host._asking) > 20  # of who is remembered
    assert len(await site.dead()) == 400
