"""Patterns of metrics: a metric is mapped when its first sample is looked at, alone, and by whichever comes
first, the scan or the walk of the history.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.servers import patient
from gateway.model import meter as model
from gateway.model.meter import MeterRule
from gateway.model.sample import to_microseconds
from gateway.store import mappings, matched
from gateway.store.devices import Devices
from gateway.store.pool import Connection, Database
from gateway.store.telemetry import TelemetryStore
from tests.fixtures.scripted import Scripted
from tests.fixtures.sync_rig import BASE, HOUR, MINUTE, Rig

ALL = MeterRule(device="*", metric="*", meter="{device} {metric}", every=HOUR)


async def fed(rig: Rig) -> dict[str, tuple[str, str, str]]:
    rows = await rig.rows(
        "select meter, device_id, metric, reduce from meter_mapping where connection_id = $1 order by meter",
        rig.name,
    )
    return {row["meter"]: (row["device_id"], row["metric"], row["reduce"]) for row in rows}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The meters of each write of mappings."""
    seen: list[list[str]] = []
    put = mappings.put

    async def noted(connection: Connection, connection_id: str, made: Any) -> None:
        seen.append([one.meter for one in made])
        await put(connection, connection_id, made)

    monkeypatch.setattr(mappings, "put", noted)
    return seen


async def test_a_metric_that_appears_is_mapped_alone_and_delivered(
    database: Database, written: list[list[str]]
) -> None:
    system = Scripted()
    rig = await Rig(database, system, rules=(ALL,)).activate()
    await rig.store(("a", BASE, 1.0), ("b", BASE, 2.0))
    await rig.run()
    assert await rig.delivered() == {("a t", BASE): 1.0, ("b t", BASE): 2.0}
    compared = await rig.rows("select device_id, metric from matched_metric order by device_id")
    assert [tuple(row.values()) for row in compared] == [("a", "t"), ("b", "t")], "and never again"
    written.clear()
    await rig.store(("a", BASE + HOUR, 3.0))
    await rig.run()
    assert [made for made in written if made] == [], "what is known is not written again"
    await rig.store(("a", BASE + HOUR, 7.0), metric="pressure [bar]")
    await rig.run()
    assert [made for made in written if made] == [["a pressure [bar]"]]
    assert (await rig.delivered())["a pressure [bar]", BASE + HOUR] == 7.0
    assert len(system.taken) == 4


async def test_a_pattern_that_is_new_finds_what_the_history_has(database: Database) -> None:
    literal = MeterRule(device="a", metric="t", meter="a t", every=HOUR)
    rig = await Rig(database, Scripted(), rules=(literal,), initial_days=1).activate()
    await rig.store(("a", BASE, 1.0), ("b", BASE, 2.0))
    await rig.store(("a", BASE + HOUR, 5.0), metric="u")
    await rig.run()
    await rig.run("initial")
    assert await rig.delivered() == {("a t", BASE): 1.0}
    await rig.change_rules(literal, ALL)
    await rig.run("initial")
    assert await rig.delivered() == {("a t", BASE): 1.0, ("b t", BASE): 2.0, ("a u", BASE + HOUR): 5.0}
    await rig.change_rules(literal)
    assert await fed(rig) == {"a t": ("a", "t", "last")}
    assert await rig.rows("select from matched_metric") == []


async def test_a_changed_rule_keeps_meters_of_metrics_that_vanished(database: Database) -> None:
    rig = await Rig(database, Scripted(), rules=(ALL,)).activate()
    await rig.store(("a", BASE, 1.0), metric="gone")
    await rig.run()
    await rig.execute("delete from telemetry")
    mean = MeterRule(device="*", metric="g*", meter="{device} {metric}", every=HOUR, reduce="mean")
    await rig.change_rules(mean)
    assert await fed(rig) == {"a gone": ("a", "gone", "mean")}


async def test_two_rules_that_match_one_metric(database: Database) -> None:
    rules = (
        MeterRule(device="a", metric="t", meter="{device} {metric}", every=HOUR, reduce="mean"),
        ALL,
        MeterRule(device="*", metric="t*", meter="{device} {metric} max", every=HOUR, reduce="max"),
        MeterRule(device="b", metric="t", meter="a u", every=HOUR),
    )
    rig = await Rig(database, Scripted(), rules=rules).activate()
    await rig.store(("a", BASE, 1.0), ("b", BASE, 2.0))
    await rig.store(("a", BASE, 3.0), metric="u")
    for _ in range(2):
        await rig.run()
    assert await fed(rig) == {
        "a t": ("a", "t", "mean"),
        "a t max": ("a", "t", "max"),
        "a u": ("b", "t", "last"),
        "b t": ("b", "t", "last"),
        "b t max": ("b", "t", "max"),
    }
    assert (await rig.delivered())["a u", BASE] == 2.0, "never the value of another metric"


async def test_scan_and_walk_find_the_same_metric_side_by_side(database: Database) -> None:
    rig = Rig(database, Scripted(), rules=(ALL,), initial_days=1)
    await rig.store(("a", BASE, 1.0), ("b", BASE, 2.0))
    await rig.activate()
    await rig.store(("a", BASE + HOUR, 4.0), ("c", BASE, 3.0))
    await rig.run("initial")
    await rig.run()
    assert await rig.delivered() == {
        ("a t", BASE): 1.0,
        ("a t", BASE + HOUR): 4.0,
        ("b t", BASE): 2.0,
        ("c t", BASE): 3.0,
    }
    (row,) = await rig.rows("select meter_count from connection where connection_id = $1", rig.name)
    assert row["meter_count"] == 3


async def test_scan_walk_and_changes_of_rules_go_on_side_by_side(database: Database) -> None:
    """Each finds metrics that the others map in the same moment; none waits for another in a circle."""
    mean = MeterRule(device="*", metric="n*", meter="{device} {metric} mean", every=HOUR, reduce="mean")
    rig = await Rig(database, Scripted(), rules=(ALL,), initial_days=1).activate()
    for number in range(8):
        for at in (BASE, BASE + HOUR):
            await rig.store(*[(device, at, float(number)) for device in "abcdef"], metric=f"n{number}")
        await rig.change_rules(*((ALL, mean) if number % 2 else (mean, ALL)))
        walk, scan = await rig.claim("initial"), await rig.claim()
        late = replace(rig, rules=rig.rules)
        await asyncio.gather(
            rig.runner().run(walk, rig.link), rig.runner().run(scan, rig.link), late.change_rules(*rig.rules)
        )
        rig.configuration = late.configuration
    if (await rig.stream("initial"))["state"] != "done":
        await rig.run("initial")
    await rig.run()
    (row,) = await rig.rows(
        "select meter_count, (select count(*) from meter_mapping) as meters from connection"
    )
    assert (row["meter_count"], row["meters"]) == (96, 96)
    assert await rig.delivered() == {
        (f"{device} n{number}{suffix}", at): float(number)
        for device in "abcdef"
        for number in range(8)
        for suffix in ("", " mean")
        for at in (BASE, BASE + HOUR)
    }


async def test_a_device_with_too_many_metrics_takes_no_place_of_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matched, "MAX_MATCHED_METRICS", 2)
    rig = await Rig(database, Scripted(), rules=(ALL,)).activate()
    for number in range(4):
        await rig.store(("a", BASE, 1.0), metric=f"n{number}")
    await rig.store(("b", BASE, 1.0))
    await rig.run()
    await rig.store(("a", BASE + HOUR, 1.0), metric="n9")
    await rig.run()
    assert list(await fed(rig)) == ["a n0", "a n1", "b t"]
    told = await rig.rows("select data from event where type = 'meters.refused'")
    assert [row["data"] for row in told] == [{"limit": 2, "device": "a"}]


async def test_a_full_connection_takes_no_more(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matched, "MAX_METERS", 2)
    rig = await Rig(database, Scripted(), rules=(ALL,)).activate()
    for number in range(4):
        await rig.store(("a", BASE, 1.0), metric=f"n{number}")
    await rig.run()
    await rig.store(("b", BASE, 1.0))
    await rig.run()
    assert list(await fed(rig)) == ["a n0", "a n1"]
    told = await rig.rows("select data from event where type = 'meters.refused'")
    assert [row["data"] for row in told] == [{"limit": model.MAX_METERS}] or told[0]["data"]["limit"] == 2


async def test_only_devices_and_metrics_of_the_rule(database: Database) -> None:
    rules = (
        MeterRule(device="press-[12]", metric="t?_%*", meter="{device} {metric}", every=HOUR),
        MeterRule(device="oven", metric="*", meter="oven {metric}", every=HOUR),
    )
    rig = await Rig(database, Scripted(), rules=rules).activate()
    for metric in ("t1_%x", "t1_x", "t1a%x", "T1_%x", "x"):
        await rig.store(
            *[(device, BASE, 1.0) for device in ("press-1", "press-3", "oven", "ovens")], metric=metric
        )
    await rig.run()
    assert set(await fed(rig)) == {
        "press-1 t1_%x",
        *(f"oven {metric}" for metric in ("t1_%x", "t1_x", "t1a%x", "T1_%x", "x")),
    }


async def test_one_with_patterns_is_scanned_by_its_own_run(database: Database) -> None:
    literal = MeterRule(device="*", metric="t", meter="{device} {metric}", every=15 * MINUTE)
    leader = await Rig(database, Scripted(), name="acme-1", rules=(literal,)).activate()
    other = await Rig(database, Scripted(), name="acme-2", rules=(ALL,)).activate()
    leader.beside, other.beside = [other], [leader]
    await leader.store(("a", BASE, 1.0))
    for rig in (leader, other, leader):
        await rig.run()
    await leader.store(("a", BASE, 2.0), metric="u")
    await leader.run()
    await other.run()
    assert set(await fed(other)) == {"a t", "a u"}
    assert (await other.delivered())["a u", BASE] == 2.0


async def test_the_device_page_tells_no_metric_unmapped_that_a_pattern_takes(database: Database) -> None:
    rig = await Rig(database, Scripted(), rules=(ALL,)).activate()
    await rig.store(("a", BASE, 1.0))
    await rig.execute(
        "insert into device_state (customer_id, device_id, last_seen_at, last_sample_at, metrics)"
        """ values ($1, 'a', now(), now(), '{"t": [1, 1.0], "other": [1, 2.0]}')""",
        rig.customer,
    )
    await rig.run()
    found = await Devices(database).one(rig.customer, "a")
    assert found is not None and found.unmapped == ("other",)
    assert [fed.meter for metric in found.metrics for fed in metric.meters] == ["a t"]


@pytest.mark.parametrize("known", [999, 1000])
async def test_a_device_that_puts_times_into_names_costs_the_scan_and_the_walk_little(
    database: Database, known: int
) -> None:
    """What it has already was counted again for each of its new names: a slice of them took a minute."""
    rig = await Rig(database, Scripted(), rules=(ALL,)).activate()
    await rig.execute(
        "insert into matched_metric select $1, 'a', 'n' || n from generate_series(1, $2::int) n",
        rig.name,
        known,
    )
    for number in range(300):
        sample = {f"{number} {place}": 1.0 for place in range(256)}
        at = to_microseconds(BASE + number * MINUTE)
        writer = TelemetryStore(database, register_customers=True)
        await writer.write([((rig.customer, "a", at), sample, at)], [])
    async with patient(5), database.connection() as connection:
        place = (connection, rig.name, rig.customer, rig.rules)
        in_slice = await matched.in_slice(*place, (0, 2**62))
        in_history = await matched.in_history(*place, (BASE, BASE + 6 * HOUR))
    assert in_slice == in_history and in_slice.beyond == ["a"]
    assert len(in_slice.metrics.get("a", ())) == 1000 - known


@pytest.mark.parametrize("known", [999, 1000])
async def test_samples_of_many_metrics_that_are_known_cost_the_scan_and_the_walk_little(
    database: Database, known: int
) -> None:
    """Each name that is known was held against each that a sample has: 2 ms for a sample of a thousand."""
    rig = await Rig(database, Scripted(), rules=(ALL,)).activate()
    await rig.execute(
        "insert into matched_metric select $1, 'a', 'line_' || n || '_of_the_hall_in_the_south' from generate_series(1, $2::int) n",
        rig.name,
        known,
    )
    sample = {f"line_{place}_of_the_hall_in_the_south": 1.0 for place in range(1, 1001)}
    writer = TelemetryStore(database, register_customers=True)
    times = [to_microseconds(BASE + number * timedelta(seconds=1)) for number in range(1_000)]
    await writer.write([((rig.customer, "a", at), sample, at) for at in times], [])
    async with database.connection() as connection:
        place = (connection, rig.name, rig.customer, rig.rules)
        began = await cpu_seconds(connection)
        in_slice = await matched.in_slice(*place, (0, 2**62))
        in_history = await matched.in_history(*place, (BASE, BASE + 6 * HOUR))
        used = await cpu_seconds(connection) - began
        assert used < 2.0
    assert in_slice == in_history and in_slice.beyond == []
    assert in_slice.metrics == ({"a": ["line_1000_of_the_hall_in_the_south"]} if known == 999 else {})


async def cpu_seconds(connection: Connection) -> float:
    """What the session's process has used: the machine may have other work."""
    text: str = await connection.fetchval("select pg_read_file('/proc/self/stat')")
    used = text.rpartition(")")[2].split()[11:13]
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("name", ["metrics_fresh", "metrics_past"])
async def test_names_that_no_pattern_fits_are_not_told_apart(database: Database, name: str) -> None:
    """Devices that put numbers into names have ever new ones: they cost one look each, and no more."""
    rig = await Rig(database, Scripted(), rules=(replace(ALL, metric="temp_*"),)).activate()
    samples = [
        (
            ("acme", f"d{number % 5}", to_microseconds(BASE) + number),
            {f"job_{number}_{place}": place for place in range(40)} | {"temp_1": 1},
            0,
        )
        for number in range(200)
    ]
    await TelemetryStore(database, register_customers=True).write(samples, ())
    asked: list[tuple[str, tuple[object, ...]]] = []

    class Asked:
        async def fetch(self, text: str, *given: object) -> list[Any]:
            asked.append((text, given))
            return []

        async def fetchval(self, *_: object) -> int:
            return 0

    bounds: Any = (0, 10**9) if name == "metrics_fresh" else (BASE, BASE + HOUR)
    find = matched.in_slice if name == "metrics_fresh" else matched.in_history
    await find(Asked(), rig.name, "acme", rig.rules, bounds)  # type: ignore[arg-type]
    ((text, given),) = asked
    async with database.connection() as connection:
        rows = await connection.fetch(text, *given)
        assert [(row["device_id"], row["metric"]) for row in rows] == [(f"d{n}", "temp_1") for n in range(5)]
        plan = await connection.fetchval(f"explain (analyze, timing off, format json) {text}", *given)
    assert max(_told_apart(json.loads(plan)[0]["Plan"])) <= len(samples)


def _told_apart(plan: dict[str, Any]) -> list[float]:
    """How many rows came into what sorts or groups."""
    parts = plan.get("Plans", [])
    found = [count for part in parts for count in _told_apart(part)]
    if plan["Node Type"] in ("Aggregate", "Sort", "Unique"):
        found += [part["Actual Rows"] * part["Actual Loops"] for part in parts]
    return found


@settings(max_examples=1, suppress_health_check=list(HealthCheck), deadline=None)
@given(
    pairs=st.lists(
        st.tuples(
            st.lists(
                st.text("aB1*?._\\%[](){}|^$+- \n\u00e9\u4e2d", min_size=1, max_size=6),
                min_size=1,
                max_size=4,
            ),
            st.text("aB1._\\%[](){}|^$+- \n\u00e9\u4e2d", min_size=1, max_size=6),
        ),
        min_size=200,
        max_size=200,
    )
)
async def test_one_expression_fits_what_any_pattern_fits(
    database: Database, pairs: list[tuple[list[str], str]]
) -> None:
    """And nothing else, where each pattern has its wildcards in one place and is one star."""
    async with database.connection() as connection:
        for globs, metric in pairs:
            wanted = any(replace(ALL, metric=glob).feeds_from("d", metric) for glob in globs)
            found = await connection.fetchval("select $2 ~ $1", matched._expression(globs), metric)
            assert found or not wanted
            if all(glob.count("*") < 2 and "?" not in glob for glob in globs) and "*" not in globs:
                assert found is wanted
    assert matched._expression(["a" * 200 + str(number) for number in range(100)]) == ""


async def test_patterns_of_many_wildcards_cost_no_seconds(database: Database) -> None:
    """A customer's rules are looked for in the database of all."""
    globs = ["*" * 250 + str(number) for number in range(19)]
    async with database.connection() as connection:
        await connection.execute("set statement_timeout = '1s'")
        expression = matched._expression(globs)
        assert await connection.fetchval("select $2 ~ $1", expression, "ab" * 60) is False
        await connection.execute("reset statement_timeout")
