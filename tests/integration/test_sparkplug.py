"""Sparkplug B from the pipeline to the database: what births say is stored with what
they sent, and survives.
"""

from __future__ import annotations

import asyncio
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
from gateway.ingest.pipeline import Pipeline
from gateway.ingest.quotas import Quotas
from gateway.ingest.replay import Failed, Replay
from gateway.model.quota import BURST_SECONDS
from gateway.payloads.sources import compile_sources
from gateway.payloads.sparkplug.wire import PAYLOAD, parse
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
    message = PAYLOAD(timestamp=at) if seq is None else PAYLOAD(timestamp=at, seq=seq)
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
    message = PAYLOAD(timestamp=huge, seq=huge)
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
    replay = Replay(settings, site.database)
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
