"""Devices as they are stored and read: the merge of what ingest tells, the list, one device, its series."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.ingest.decode import Decoder
from gateway.ingest.pipeline import Pipeline
from gateway.ingest.registry import Registry
from gateway.model.access import Role
from gateway.model.errors import RequestRefused
from gateway.model.sample import from_microseconds, to_microseconds
from gateway.payloads.sources import compile_sources
from gateway.settings import TelemetrySettings
from gateway.store import devices as store
from gateway.store.devices import Devices, Seen, SeriesBucket
from gateway.store.pool import Database
from gateway.store.telemetry import TelemetryStore
from tests.fixtures.connection_rig import World
from tests.fixtures.http_rig import served
from tests.integration.test_bounds import message
from tests.integration.test_operating import Shell
from tests.unit.test_pipeline import Connection, committed

START = datetime(2026, 11, 1, tzinfo=UTC)


def seen(device: str = "a", **entries: tuple[int, Any]) -> Seen:
    times = {name: at for name, (at, _) in entries.items()}
    return Seen(
        customer="acme",
        device=device,
        title=None,
        source=None,
        seen=max(times.values()),
        first=min(times.values()),
        last=max(times.values()),
        values={name: value for name, (_, value) in entries.items()},
        times=times,
        since=max(times.values()),
    )


async def write(database: Database, *told: Seen) -> None:
    await store.write(database, told, [one.payload() for one in told])


async def register(database: Database, *devices: str, customer: str = "acme") -> None:
    async with database.transaction() as connection:
        await connection.execute("insert into customer values ($1) on conflict do nothing", customer)
        await connection.execute(
            "insert into device (customer_id, device_id, revision) select $1, unnest($2::text[]), 1 on"
            " conflict do nothing",
            customer,
            list(devices),
        )


async def held(database: Database, device: str = "a") -> dict[str, tuple[int, Any]]:
    found = await Devices(database).one("acme", device)
    assert found is not None
    return {m.name: (to_microseconds(m.at), m.value) for m in found.metrics if m.at is not None}


async def test_what_ingest_committed_is_seen_and_what_it_refused_is_not(database: Database) -> None:
    telemetry = TelemetrySettings.model_validate(
        {
            "auto_register_customers": True,
            "sources": [{"topic": "{customer}/devices/{device}/telemetry"}],
        }
    )
    sources, registry = compile_sources(telemetry.sources), Registry(database)
    taking = Pipeline(
        telemetry,
        Decoder(telemetry, sources, (), introduce=registry.introduce),
        TelemetryStore(database, register_customers=True, max_devices=lambda _: 2),
        on_stored=registry.note,
    )
    session = Connection()
    taking.receive(session, [message("Pump Room"), message("d2", payload=b'{"on": true, "state": "ok"}')])
    await committed(taking)
    taking.receive(session, [message("beyond"), message("d2", payload=b'{"t": 3}')])
    await committed(taking)
    await registry.flush()
    found = await Devices(database).page("acme", limit=10)
    assert [(one.title, one.source, one.metrics) for one in found] == [
        ("Pump Room", "{customer}/devices/{device}/telemetry", 1),
        (None, "{customer}/devices/{device}/telemetry", 3),
    ]
    one = await Devices(database).one("acme", "d2")
    assert one is not None
    assert {m.name: (m.kind, m.value) for m in one.metrics} == {
        "on": ("boolean", True),
        "state": ("text", "ok"),
        "t": ("number", 3),
    }
    assert one.unmapped == ("on", "state", "t")


async def test_equal_titles_are_not_written_again(database: Database) -> None:
    """A start tells the name of every device: rows that hold it stay as they are."""
    await register(database, "a")
    told = seen(t=(1, 1))
    named = told._replace(title="A", source="x")
    await write(database, named)
    async with database.connection() as connection:
        before = await connection.fetchval("select xmin::text from device")
        await write(database, named)
        assert await connection.fetchval("select xmin::text from device") == before


ROUNDS = st.lists(
    st.dictionaries(st.sampled_from("xyz"), st.tuples(st.integers(1, 30), st.integers()), min_size=1),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=ROUNDS)
async def test_the_later_value_of_each_metric_stays(
    database: Database, rounds: list[dict[str, tuple[int, int]]]
) -> None:
    """In whatever order rounds come: a late sample, or two replicas."""
    rounds = [{n: (at, value % 1000) for n, (at, value) in each.items()} for each in rounds]
    async with database.connection() as connection:
        await connection.execute("truncate device cascade")
    await register(database, "a")
    expected: dict[str, int] = {}
    for each in rounds:
        await write(database, seen(**each))
        for name, (at, _) in each.items():
            expected[name] = max(expected.get(name, 0), at)
    found = await held(database)
    assert {name: at for name, (at, _) in found.items()} == expected
    assert all(
        value in [each[name][1] for each in rounds if name in each and each[name][0] == at]
        for name, (at, value) in found.items()
    )


async def test_a_device_that_invents_metrics_stays_bounded(database: Database) -> None:
    await register(database, "a")
    for turn in range(4):
        told = {f"m{turn}_{number}": (turn * 1000 + number, "x" * 100) for number in range(600)}
        await write(database, seen(**told))
    found = await held(database)
    assert len(found) == 1024
    assert "m3_599" in found
    assert "m0_0" not in found


async def test_pages_go_through_every_device_of_a_customer_once(database: Database) -> None:
    names = [f"d{number:03}" for number in range(25)]
    await register(database, *names)
    await register(database, "d000", "other", customer="globex")
    after, found = ("", ""), list[str]()
    while rows := await Devices(database).page("acme", after=after, limit=7):
        found += [row.device for row in rows]
        after = (rows[-1].customer, rows[-1].device)
    assert found == names
    everyone = await Devices(database).page(None, limit=100)
    assert [row.customer for row in everyone].count("globex") == 2
    assert len(everyone) == 27
    assert [row.device for row in await Devices(database).page("acme", text="D01", limit=100)] == names[10:20]
    assert await Devices(database).page("", limit=5, after=("", "")) == []


async def test_silent_ones_are_listed_alone_and_left_out(database: Database) -> None:
    names = [f"d{number:03}" for number in range(25)]
    for customer in ("acme", "globex"):
        await register(database, *names, customer=customer)
        async with database.connection() as connection:
            await connection.execute(
                "insert into device_state (customer_id, device_id, last_seen_at, last_sample_at, metrics,"
                " silent_since) select customer_id, device_id, now(), now(), '{}', case when right(device_id,"
                " 1) = '7' then now() end from device where customer_id = $1 and device_id <> 'd000'",
                customer,
            )
    devices = Devices(database)
    assert [one.device for one in await devices.page("acme", silent=True, limit=9)] == ["d007", "d017"]
    others = await devices.page("acme", silent=False, limit=99)
    assert [one.device for one in others] == [name for name in names if name[-1] != "7"]
    assert len(await devices.page("acme", limit=99)) == 25
    after, found = ("", ""), list[tuple[str, str]]()
    while rows := await devices.page(None, silent=True, after=after, limit=1):
        after = rows[0].customer, rows[0].device
        found.append(after)
    assert found == [(customer, name) for customer in ("acme", "globex") for name in ("d007", "d017")]
    assert [one.device for one in await devices.page("acme", silent=True, text="D01", limit=9)] == ["d017"]
    assert await devices.page("", silent=True, limit=9) == []


async def test_a_series_is_what_plain_python_makes_of_the_samples(database: Database) -> None:
    telemetry = TelemetryStore(database, register_customers=True)
    samples = [
        (
            START + timedelta(seconds=37 * number),
            {"t": number * 1.5, "on": number % 3 == 0, "s": f"v{number}"},
        )
        for number in range(200)
    ]
    await telemetry.write(
        [(("acme", "a", to_microseconds(at)), dict(metrics), to_microseconds(at)) for at, metrics in samples],
        (),
    )
    since, until, buckets = START + timedelta(minutes=3), START + timedelta(hours=1, minutes=40), 13
    width = (until - since) / buckets
    for metric in ("t", "on", "s", "none"):
        expected: dict[datetime, list[Any]] = {}
        for at, metrics in samples:
            if since <= at < until and metric in metrics:
                expected.setdefault(since + (at - since) // width * width, []).append(metrics[metric])
        found = await Devices(database).series("acme", "a", metric, since=since, until=until, buckets=buckets)
        assert found.complete
        assert [(b.start, b.samples, b.last) for b in found.buckets] == [
            (start, len(values), values[-1]) for start, values in expected.items()
        ]
        for bucket, values in zip(found.buckets, expected.values(), strict=True):
            if metric == "s":
                assert (bucket.min, bucket.mean, bucket.max) == (None, None, None)
            else:
                assert bucket.min == min(values)
                assert bucket.max == max(values)
                assert bucket.mean == pytest.approx(sum(values) / len(values))


async def test_a_series_reads_no_more_than_its_bound(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_SAMPLES", 10)
    telemetry = TelemetryStore(database, register_customers=True)
    await telemetry.write([(("acme", "a", number), {"t": number}, number) for number in range(30)], ())
    found = await Devices(database).series(
        "acme", "a", "t", since=from_microseconds(0), until=from_microseconds(30), buckets=3
    )
    assert not found.complete
    assert found.buckets == (
        SeriesBucket(start=from_microseconds(20), samples=10, min=20, mean=24.5, max=29, last=29),
    )


@pytest.mark.parametrize("values", [[1e200, -1e200], [1.7e308, 1.7e308], [0.1] * 3, [-5e-324, 5e-324]])
async def test_a_series_of_any_numbers_has_a_mean(database: Database, values: list[float]) -> None:
    """Doubles overflow in the mean of two that are finite."""
    telemetry = TelemetryStore(database, register_customers=True)
    await telemetry.write(
        [(("acme", "a", number), {"t": value}, number) for number, value in enumerate(values)], ()
    )
    found = await Devices(database).series(
        "acme", "a", "t", since=from_microseconds(0), until=from_microseconds(100), buckets=1
    )
    expected = float(sum(map(Fraction, values)) / len(values))
    assert [b.mean for b in found.buckets] == [pytest.approx(expected)]
    assert [(b.min, b.max) for b in found.buckets] == [(min(values), max(values))]


@pytest.mark.parametrize("buckets", [1, 3, 7, 13, 99])
async def test_a_series_has_no_more_parts_than_asked_for(database: Database, buckets: int) -> None:
    """Whatever is left over when the time is divided."""
    telemetry = TelemetryStore(database, register_customers=True)
    await telemetry.write([(("acme", "a", number), {"t": number}, number) for number in range(100)], ())
    found = await Devices(database).series(
        "acme", "a", "t", since=from_microseconds(0), until=from_microseconds(100), buckets=buckets
    )
    assert len(found.buckets) <= buckets
    assert sum(b.samples for b in found.buckets) == 100


async def test_meters_of_a_metric_and_what_is_unmapped(database: Database) -> None:
    await register(database, "a", "b")
    await write(database, seen(t=(1, 1), u=(2, "x")))
    async with database.connection() as connection:
        await connection.execute(
            "insert into connection (connection_id, customer_id, system, hosting, tier, declared_digest)"
            " values ('c1', 'acme', 's', 'cloud', 1, '')"
        )
        await connection.execute(
            "insert into meter_mapping (connection_id, meter, device_id, metric, reduce, span, unit) values"
            " ('c1', 'm1', 'a', 't', 'mean', '1h', 'CEL'), ('c1', 'm2', 'a', 'gone', 'last', '1h', null),"
            " ('c1', 'm3', 'b', 'u', 'last', '1h', null)"
        )
    found = await Devices(database).one("acme", "a")
    assert found is not None
    assert [(m.name, m.kind, [f.meter for f in m.meters]) for m in found.metrics] == [
        ("gone", None, ["m2"]),
        ("t", "number", ["m1"]),
        ("u", "text", []),
    ]
    assert found.unmapped == ("u",)
    assert await Devices(database).one("globex", "a") is None


async def test_a_page_of_many_devices_costs_little_more_than_of_few(database: Database) -> None:
    """By key: no page reads what is before it. The ratio of two in one run, never a time."""
    await register(database, "a")
    async with database.connection() as connection:
        await connection.execute(
            "insert into device (customer_id, device_id, revision) select 'acme', 'd' || lpad(n::text, 6,"
            " '0'), 1 from generate_series(1, 20000) n"
        )
        await connection.execute(
            "insert into device_state (customer_id, device_id, last_seen_at, last_sample_at, metrics)"
            " select 'acme', device_id, now(), now(), '{\"t\": [1, 2]}' from device"
        )
        await connection.execute("analyze device, device_state")
    devices = Devices(database)
    first = await _fastest(devices, ("", ""))
    assert await _fastest(devices, ("acme", "d019000")) < 10 * first


async def test_a_round_reads_the_devices_that_it_writes_and_no_others(database: Database) -> None:
    """Whatever the planner thinks of one customer with many devices: rows that are read, never a time."""
    async with database.connection() as connection:
        await connection.execute("insert into customer values ('acme')")
        await connection.execute(
            "insert into device (customer_id, device_id, revision) select 'acme', 'd' || n, 1 from"
            " generate_series(1, 5000) n"
        )
        await connection.execute(
            "insert into device_state (customer_id, device_id, last_seen_at, last_sample_at, metrics)"
            " select 'acme', device_id, now(), now(), '{\"t\": [1, 2]}' from device"
        )
        await connection.execute("analyze device, device_state")

    class One:
        @asynccontextmanager
        async def connection(self) -> AsyncIterator[Any]:
            yield session

    async def read() -> dict[str, int]:
        rows = await session.fetch(
            "select relname, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) as rows from"
            " pg_stat_xact_user_tables where relname like 'device%'"
        )
        return {row["relname"]: row["rows"] for row in rows}

    told = [seen(f"d{number}", t=(2**50, 1)) for number in range(1, 101)]
    async with database.transaction() as session:
        before = await read()
        await store.write(One(), told, [one.payload() for one in told])  # type: ignore[arg-type]
        after = await read()
    assert after["device"] > 0
    assert all(after[table] - before.get(table, 0) <= 5 * len(told) for table in after)


async def _fastest(devices: Devices, after: tuple[str, str]) -> float:
    taken = []
    for _ in range(10):
        began = time.perf_counter()
        assert len(await devices.page("acme", after=after, limit=101)) == 101
        taken.append(time.perf_counter() - began)
    return min(taken)


async def test_the_command_lists_and_shows(
    tmp_path: Path, dsn: str, empty_dsn: str, database: Database
) -> None:
    shell = Shell(tmp_path, dsn, empty_dsn)
    await register(database, "a", "b", "c")
    await write(database, seen(t=(1, 1.5), state=(2, "ok")))
    listed = await asyncio.to_thread(shell.json, "devices", "list", "--customer", "acme", "--after", "acme/a")
    assert [each["device"] for each in listed] == ["b", "c"]
    assert "b" not in [
        e["device"] for e in await asyncio.to_thread(shell.json, "devices", "list", "--q", "C")
    ]
    one = await asyncio.to_thread(shell.json, "devices", "show", "acme", "a")
    assert one["unmapped"] == ["state", "t"]
    page = await asyncio.to_thread(shell.run, "devices", "show", "acme", "a")
    assert page.exit_code == 0 and "1.5" in page.stdout and "2 metrics unmapped" in page.stdout
    assert (await asyncio.to_thread(shell.run, "devices", "list")).exit_code == 0
    assert await asyncio.to_thread(shell.json, "devices", "list", "--silent") == []
    async with database.connection() as connection:
        await connection.execute("update device_state set silent_since = now(), interval_seconds = 600")
    silent = await asyncio.to_thread(shell.json, "devices", "list", "--silent")
    assert [each["device"] for each in silent] == ["a"]
    listed = await asyncio.to_thread(shell.run, "devices", "list")
    page = await asyncio.to_thread(shell.run, "devices", "show", "acme", "a")
    assert "silent" in listed.stdout and "silent since" in page.stdout and "10 min" in page.stdout
    async with database.connection() as connection:
        await connection.execute("update device_state set interval_seconds = 0.498")
    page = await asyncio.to_thread(shell.run, "devices", "show", "acme", "a")
    assert "usually 0.498 s between two messages" in page.stdout
    error = await asyncio.to_thread(shell.refused, "devices", "show", "acme", "none")
    assert isinstance(error, RequestRefused) and error.code == "request.not_found"


async def test_over_http_a_bound_token_sees_its_own(database: Database, dsn: str) -> None:
    """On the real statements: the list, one device, and its series between two times."""
    await register(database, "a")
    await register(database, "z", customer="globex")
    at = to_microseconds(START)
    await TelemetryStore(database, register_customers=True).write([(("acme", "a", at), {"t": 4.5}, at)], ())
    await write(database, seen(t=(at, 4.5)))
    async with served(World(database), Role.VIEWER, "acme") as client:
        assert [each["device"] for each in (await client.get("/v1/devices")).json()["items"]] == ["a"]
        assert (await client.get("/v1/devices", params={"customer": "globex"})).json()["items"] == []
        assert (await client.get("/v1/devices/globex/z")).status_code == 404
        silent = [(await client.get("/v1/devices", params={"silent": of})).json() for of in ("true", "false")]
        assert [len(page["items"]) for page in silent] == [0, 1]
        one = (await client.get("/v1/devices/acme/a")).json()
        assert (one["device"]["silent_since"], one["device"]["interval_seconds"]) == (None, None)
        assert one["metrics"][0]["value"] == 4.5 and one["unmapped"] == ["t"]
        asked = {"metric": "t", "from": START.isoformat(), "to": (START + timedelta(hours=1)).isoformat()}
        series = (await client.get("/v1/devices/acme/a/telemetry", params={**asked, "buckets": 4})).json()
        assert series["bucket_seconds"] == 900 and series["complete"]
        assert [(b["samples"], b["mean"], b["last"]) for b in series["buckets"]] == [(1, 4.5, 4.5)]
        for wrong in ({"to": asked["from"]}, {"from": "2027-01-01T00:00:00"}, {"buckets": 1001}):
            answer = await client.get("/v1/devices/acme/a/telemetry", params={**asked, **wrong})
            assert answer.status_code == 422, wrong
