"""From a device over a broker to a table: days and shifts on which clocks are changed, and a change of a meter's
windows in a gateway that runs.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from benchmarks.mqtt import Publisher
from benchmarks.servers import wait_until
from tests.fault.rig import Rig, started

BERLIN = "Europe/Berlin"
MINUTE = timedelta(minutes=1)
SHIFTS = ["06:00", "14:00", "22:00"]
SINCE = {
    "25 hours": datetime(2025, 10, 25, 20, tzinfo=UTC),
    "23 hours": datetime(2025, 3, 29, 20, tzinfo=UTC),
}
METER = {"device": "press", "metric": "strokes", "reduce": "sum", "zone": BERLIN}


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with started(tmp_path) as made:
        yield made


def day_of(at: datetime) -> str:
    return f"{at.astimezone(ZoneInfo(BERLIN)):day %d %b}"


def shift_of(at: datetime) -> str:
    """No shift begins while clocks are changed: what they show says it."""
    shown = at.astimezone(ZoneInfo(BERLIN))
    begun = [start for start in SHIFTS if start <= f"{shown:%H:%M}"]
    yesterday = (shown.replace(tzinfo=None) - timedelta(days=1)).strftime("%d %b")
    return f"shift {shown:%d %b} {begun[-1]}" if begun else f"shift {yesterday} 22:00"


async def test_days_and_shifts_reach_a_table_as_clocks_show_them(rig: Rig) -> None:
    meters = [
        {**METER, "meter": "day", "every": "day"},
        {**METER, "meter": "shift", "every": "shift", "shifts": SHIFTS},
    ]
    daemon = rig.daemon(
        connections=[rig.connection("sink", meters=meters)], telemetry={"retention": "20000d"}
    )
    daemon.start()
    await daemon.ready()
    expected: Counter[tuple[str, str]] = Counter()
    async with Publisher[None](rig.broker.port, "press") as publisher:
        for since in SINCE.values():
            for number in range(3 * 24 * 12):
                at = since + number * 5 * MINUTE
                expected["day", day_of(at)] += 1
                expected["shift", shift_of(at)] += 1
                payload = json.dumps({"ts": at.isoformat(), "metrics": {"strokes": 1}}).encode()
                await publisher.publish("acme/devices/press/telemetry", payload, None)
        await publisher.flush()
    assert expected["day", "day 26 Oct"] == 25 * 12 and expected["day", "day 30 Mar"] == 23 * 12
    assert expected["shift", "shift 25 Oct 22:00"] == 9 * 12

    async def held() -> Counter[tuple[str, str]]:
        if await rig.count("fieldgate_reading", dsn=rig.sink_dsn) < 0:
            return Counter()  # the connection makes its table when it begins
        rows = await rig.fetch("select meter, window_start, value from fieldgate_reading", dsn=rig.sink_dsn)
        name = {"day": day_of, "shift": shift_of}
        return Counter(
            {(row["meter"], name[row["meter"]](row["window_start"])): row["value"] for row in rows}
        )

    async def is_held() -> bool:
        return await held() == expected

    await wait_until(is_held, seconds=60, what="the table holds each day and shift")

    content = json.loads((rig.directory / "daemon.connections.yaml").read_text())
    content["connections"][0]["meters"][0] = {
        "device": "press", "metric": "strokes", "reduce": "sum", "meter": "day", "every": "1d",
    }  # fmt: skip
    (rig.directory / "daemon.connections.yaml").write_text(json.dumps(content))
    os.kill(daemon.pid, signal.SIGHUP)
    windows = "select count(*) from meter_mapping where meter = 'day' and calendar = ''"

    async def are_changed() -> bool:
        return bool((await rig.fetch(windows))[0][0])

    await wait_until(are_changed, seconds=30, what="the meter has windows of a duration")
    at = datetime(2025, 6, 1, 23, 30, tzinfo=UTC)
    async with Publisher[None](rig.broker.port, "press") as publisher:
        payload = json.dumps({"ts": at.isoformat(), "metrics": {"strokes": 7}}).encode()
        await publisher.publish("acme/devices/press/telemetry", payload, None)
        await publisher.flush()

    async def both() -> bool:
        rows = await rig.fetch(
            "select meter, window_start from fieldgate_reading where value = 7", dsn=rig.sink_dsn
        )
        return {(row["meter"], row["window_start"]) for row in rows} == {
            ("day", datetime(2025, 6, 1, tzinfo=UTC)),
            ("shift", datetime(2025, 6, 1, 20, tzinfo=UTC)),
        }

    await wait_until(both, seconds=30, what="a day of UTC, and a night shift of Berlin")
    assert await daemon.stop() == 0
