"""Meters of a connection are edited on its page, without script: suggested, previewed, saved, in force; what a row
does not show stays, and of two who edit at once nobody overwrites the other.
"""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from benchmarks.servers import wait_until
from gateway.connections import lifecycle
from gateway.connections.given import MetersOutdated, meters_digest
from gateway.model.access import Role
from gateway.model.exchange import RemoteMeter
from gateway.settings import ConnectionPatch, CreditsSettings
from gateway.store.credits import sync_capacity
from gateway.store.pool import Database
from tests.fixtures.connection_rig import CALLER, World
from tests.fixtures.http_rig import served
from tests.fixtures.scripted import Scripted
from tests.integration.test_connect import logged_in, pumps

PATH = "/connections/acme-1/meters"
RULES: list[dict[str, Any]] = [
    {"device": "fan-*", "metric": "speed", "meter": "{device}-speed", "every": "37m"},
    {"device": "pump-9", "metric": "hours", "meter": "H9", "reduce": "delta", "scale": 0.1, "rollover": 65536.0,
     "every": "90m", "deadband": 2.0, "max_silence": "6h", "unit": "HUR"},
    {"device": "pump-1", "metric": "temperature", "meter": "P1", "unit": "CEL"},
    {"device": "pump-1", "metric": "temperature", "meter": "P1-max", "reduce": "max"},
]  # fmt: skip


class Listing(Scripted):
    """Lists meters; `asked`: how often."""

    asked = 0

    async def meters(self) -> AsyncIterator[RemoteMeter]:
        self.asked += 1
        for meter in ("PUMP-2 temperature", "COMPRESSOR-7 pressure"):
            yield RemoteMeter(meter=meter, title=meter.title(), unit="CEL")


@pytest.fixture
async def world(database: Database, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(lifecycle, "POLL_SECONDS", 0.02)
    await sync_capacity(database, CreditsSettings())
    made = World(database, connector=Listing())
    await pumps(made)
    return await made.active(meters=RULES)


async def stored(world: World) -> list[dict[str, Any]]:
    [row] = await world.rows("select meters from connection where connection_id = 'acme-1'")
    found: list[dict[str, Any]] = row["meters"]
    return found


def row_of(page: str, old: str) -> str:
    """The name of the row that shows the rule of this meter."""
    for name, value in re.findall(r'name="(m\d+)\.old" value="([^"]*)"', page):
        if html.unescape(value).startswith(f'["{old}"'):
            return str(name)
    raise AssertionError(f"no row of {old}")


def free_row(page: str, device: str) -> str:
    for name in re.findall(rf'name="(m\d+)\.device" value="{device}"', page):
        if f'name="{name}.old" value=""' in page:
            return str(name)
    raise AssertionError(f"no free row of {device}")


async def test_meters_are_suggested_previewed_saved_and_come_into_force(world: World) -> None:
    before = await stored(world)
    async with logged_in(world) as browser:
        page = (await browser.get("/connections/acme-1")).text
        assert f'href="{PATH}"' in page
        page = (await browser.get(PATH)).text
        assert ">in force</span>" in page and "Suggested: PUMP-2 temperature" in page
        assert 'value="fan-*"' in page and "scale 0.1" in page and "max silence 6h" in page
        await browser.send(f"{PATH}", do="suggest")
        assert await stored(world) == before
        free = free_row(browser.page.text, "pump-2")
        assert f'name="{free}.meter" value="PUMP-2 temperature"' in browser.page.text
        assert ">suggested</span>" in browser.page.text
        changed = {f"{free}.reduce": "max", f"{row_of(browser.page.text, 'P1')}.unit": "K"}
        await browser.send(f"{PATH}", do="preview", **changed)
        page = browser.page.text
        assert (
            "Fed from now on:</strong> PUMP-2 temperature" in page and "computed anew:</strong> P1<" in page
        )
        assert "Nothing is saved yet." in page and len(re.findall('class="reading"', page)) >= 8
        assert await stored(world) == before
        await browser.send(f"{PATH}", **{f"{row_of(page, 'P1-max')}.meter": ""})
        assert "Saved." in browser.page.text and "not in force yet" in browser.page.text
        now = await stored(world)
        assert now[:2] == before[:2] and [meter["meter"] for meter in now[2:]] == ["P1", "PUMP-2 temperature"]
        assert (now[2]["unit"], now[3]["reduce"], now[3]["every"]) == ("K", "max", 900.0)

        async def in_force() -> bool:
            return ">in force</span>" in (await browser.get(PATH)).text

        async with world.living():
            await wait_until(in_force, what="the meters are in force", seconds=15)
        fed = {row["meter"] for row in await world.rows("select meter from meter_mapping")}
    assert fed == {"P1", "PUMP-2 temperature", "H9"}
    assert isinstance(world.connector, Listing) and world.connector.asked == 1


async def test_of_two_who_edit_at_once_nobody_overwrites_the_other(world: World) -> None:
    async with logged_in(world) as ann, logged_in(world, "acme") as bob:
        page = (await ann.get(PATH)).text
        await bob.get(PATH)
        await bob.send(PATH, **{f"{row_of(page, 'P1')}.meter": "BOB", f"{row_of(page, 'P1-max')}.unit": "K"})
        held = await stored(world)
        mine = {f"{row_of(page, 'P1')}.meter": "ANN", f"{row_of(page, 'H9')}.unit": "H"}
        await ann.send(PATH, **mine)
        assert ann.page.status_code == 409 and await stored(world) == held
        shown = ann.page.text
        assert "Somebody else changed the meters" in shown and 'value="ANN"' in shown
        assert "took this rule away" in shown and 'value="H"' in shown
        (name,) = re.findall(r'name="(m\d+)\.meter" value="ANN"', shown)
        await ann.send(PATH, **{f"{name}.meter": ""})
        assert "Saved." in ann.page.text
        now = {meter["meter"]: meter for meter in await stored(world)}
    assert now.keys() == {"{device}-speed", "H9", "BOB", "P1-max"}
    assert now["H9"] == {**held[1], "unit": "H"} and now["P1-max"]["unit"] == "K"


async def test_the_same_row_changed_by_two_shows_both(world: World) -> None:
    async with logged_in(world) as ann, logged_in(world, "acme") as bob:
        page = (await ann.get(PATH)).text
        await bob.get(PATH)
        await bob.send(PATH, **{f"{row_of(page, 'P1')}.unit": "K"})
        await ann.send(PATH, **{f"{row_of(page, 'P1')}.reduce": "mean"})
        assert ann.page.status_code == 409 and "In force now: P1 in K, last of 15m." in ann.page.text
        await ann.send(PATH)
        assert "Saved." in ann.page.text
    assert [(meter["unit"], meter["reduce"]) for meter in await stored(world)][2] == ("CEL", "mean")


async def test_what_was_made_of_old_meters_is_refused_in_the_transaction(world: World) -> None:
    seen = meters_digest(await stored(world))
    first = ConnectionPatch.model_validate({"meters": RULES[:3]})
    await world.service.change("acme-1", first, CALLER, seen=seen)
    with pytest.raises(MetersOutdated):
        await world.service.change(
            "acme-1", ConnectionPatch.model_validate({"meters": []}), CALLER, seen=seen
        )
    assert len(await stored(world)) == 3
    title = ConnectionPatch.model_validate({"title": "Other"})
    await world.service.change("acme-1", title, CALLER)
    seen = meters_digest(await stored(world))
    await world.service.change("acme-1", first, CALLER, seen=seen)  # what is no meter makes no conflict


@pytest.mark.parametrize(
    ("filled", "says"),
    [
        ({"meter": "P1-max"}, "already fed by"),
        ({"reduce": "run_time"}, None),
        ({"reduce": "nonsense"}, "Input should be"),
        ({"every": "nonsense"}, "A duration is a number"),
        ({"every": "1ms"}, "A window is at least 1s"),
        ({"every": "day"}, "`every: day` needs the `zone`"),
        ({"every": "day", "zone": "Europe/Berln"}, "&#39;Europe/Berln&#39; is no time zone"),
        ({"every": "shift", "zone": "Europe/Berlin"}, "`every: shift` has `shifts`"),
        ({"every": "shift", "zone": "Europe/Berlin", "shifts": "6 14"}, "Expected times of day"),
        ({"source": "degF"}, "`from` needs `to`"),
        ({"source": "degF", "unit": "BAR"}, "not of one kind"),
        ({"source": "grd", "unit": "CEL"}, "is no unit that is known"),
    ],
)
async def test_what_cannot_be_is_said_at_its_row(
    world: World, filled: dict[str, str], says: str | None
) -> None:
    before = await stored(world)
    async with logged_in(world) as browser:
        page = (await browser.get(PATH)).text
        free = free_row(page, "pump-2")
        await browser.send(
            PATH, **{f"{free}.{name}": text for name, text in {"meter": "N", **filled}.items()}
        )
        if says is None:
            assert "Saved." in browser.page.text
            return
        assert browser.page.status_code == 409, browser.page.text
        assert re.search(rf'class="fault">[^<]*{re.escape(says)}', browser.page.text), browser.page.text
        assert await stored(world) == before


async def test_rules_are_given_back_as_they_were_read(world: World) -> None:
    """What `GET` says of every kind of rule a `PATCH` takes, and nothing has changed."""
    rules = [*RULES, {"device": "x", "metric": "on", "meter": "X", "reduce": "run_time", "hold": "2h", "threshold": 3.0},
             {"device": "x", "metric": "t", "meter": "E", "reduce": "each", "valid": [0.0, 9.0]},
             {"device": "x", "metric": "c", "meter": "C", "reduce": "delta", "reset_below": 5.0},
             {"device": "x", "metric": "f", "meter": "F", "reduce": "mean", "scale": 0.5, "offset": -3.5}]  # fmt: skip
    async with served(world, Role.ADMIN) as client:
        path = "/v1/connections/acme-1"
        assert (await client.patch(path, json={"meters": rules})).status_code == 200
        before = await stored(world)
        read = (await client.get(path)).json()["meters"]
        answer = await client.patch(path, json={"meters": read})
        assert answer.status_code == 200, answer.text
    assert await stored(world) == before


async def test_who_may_not_change_meters_gets_no_page(world: World) -> None:
    async with logged_in(world, "globex") as browser:
        assert (await browser.get(PATH)).status_code == 404
    async with logged_in(world, "acme") as browser:
        assert (await browser.get(PATH)).status_code == 200
        await world.service.disconnect("acme-1", CALLER)
        assert (await browser.get(PATH)).status_code == 410


def blank_rows(page: str) -> list[str]:
    return re.findall(r'name="(m\d+)\.device" value="" placeholder', page)


async def test_units_and_windows_of_the_calendar_are_chosen_seen_and_kept(world: World) -> None:
    async with logged_in(world) as browser:
        page = (await browser.get(PATH)).text
        assert '<option value="Europe/Berlin">' in page and '<option value="FAH">' in page
        free, p1 = free_row(page, "pump-2"), row_of(page, "P1")
        wanted = {
            f"{free}.meter": "P2", f"{free}.source": "degF", f"{free}.unit": "CEL",
            f"{p1}.every": "shift", f"{p1}.zone": "Europe/Berlin", f"{p1}.shifts": "06:00 14:00 22:00",
        }  # fmt: skip
        await browser.send(PATH, do="preview", **wanted)
        page = browser.page.text
        shown = {
            meter: [float(number) for number in re.findall(r'class="reading">.*?</span>\s*([-\d.]+)', row)]
            for meter, row in re.findall(r'<tr><td class="text">([^<]*)</td>(.*?)</tr>', page, re.DOTALL)
        }
        assert [round(number, 3) for number in shown["P2"]] == await converted(world, "pump-2")
        assert "last of a shift from 06:00, 14:00, 22:00 in Europe/Berlin" in page and "P1" in shown
        await browser.send(PATH, do="save")
        assert "Saved." in browser.page.text
        kept = {meter["meter"]: meter for meter in await stored(world)}
        assert kept["P2"]["arithmetic"]["conversion"]["factor"] == "5/9" and kept["P2"]["unit"] == "CEL"
        assert (kept["P1"]["every"], kept["P1"]["zone"]) == ("shift", "Europe/Berlin")
        assert kept["P1"]["shifts"] == ["06:00", "14:00", "22:00"]
        page = (await browser.get(PATH)).text
        before = await stored(world)
        again = row_of(page, "P1")
        assert f'name="{again}.shifts" value="06:00 14:00 22:00"' in page
        await browser.send(PATH, **{f"{again}.every": "1h", f"{again}.zone": "", f"{again}.shifts": ""})
        now = {meter["meter"]: meter for meter in await stored(world)}
        assert now["P1"]["every"] == 3600.0 and "zone" not in now["P1"]
        assert now["P2"] == next(meter for meter in before if meter["meter"] == "P2")


async def converted(world: World, device: str) -> list[float]:
    """The last value of each quarter of an hour, in degrees Celsius."""
    rows = await world.rows(
        "select date_bin('15 minutes', ts, 'epoch') as start, array_agg((metrics->>'temperature')::float8 order by ts desc) as all"
        f" from telemetry where device_id = '{device}' and ts < date_bin('15 minutes', now(), 'epoch')"
        " and ts >= date_bin('15 minutes', now(), 'epoch') - interval '1 hour' group by 1 order by 1"
    )
    return [round((row["all"][0] - 32) * 5 / 9, 3) for row in rows]


async def test_patterns_are_written_shown_changed_and_taken_away(world: World) -> None:
    async with logged_in(world) as browser:
        page = (await browser.get(PATH)).text
        first = blank_rows(page)[0]
        pattern = {
            f"{first}.device": "pump-*",
            f"{first}.metric": "temp*",
            f"{first}.meter": "{device} {metric} max",
            f"{first}.reduce": "max",
        }
        await browser.send(PATH, do="preview", **pattern)
        page = browser.page.text
        assert "Fed from now on:</strong> {device} {metric} max" in page
        assert "pump-1 temperature max" in page and "pump-2 temperature max" in page
        await browser.send(PATH, do="save")
        assert "Saved." in browser.page.text
        assert [rule["metric"] for rule in await stored(world) if rule["device"] == "pump-*"] == ["temp*"]
        page = (await browser.get(PATH)).text
        assert "Also feeds pump-2 temperature max, by another rule." in page
        row = row_of(page, "{device} {metric} max")
        await browser.send(
            PATH, **{f"{row}.device": "pump-2", f"{row_of(page, '{device}-speed')}.every": "1h"}
        )
        kept = {rule["meter"]: rule for rule in await stored(world)}
        assert (
            kept["{device} {metric} max"]["device"] == "pump-2" and kept["{device}-speed"]["every"] == 3600.0
        )
        row = row_of(browser.page.text, "{device} {metric} max")
        await browser.send(PATH, **{f"{row}.{name}": "" for name in ("device", "metric", "meter")})
        assert {rule["meter"] for rule in await stored(world)} == {rule["meter"] for rule in RULES}


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (("pump-*", "temperature", "all"), "put {device} into meter"),
        (("pump-1", "temp*", "all"), "put {metric} into meter"),
        (("pump-*", "temperature", ""), "A meter needs device, metric and meter"),
        (("", "temperature", "M"), "A meter needs device, metric and meter"),
        (("pump *", "temperature", "{device}"), "no device can have the id"),
    ],
)
async def test_what_no_pattern_can_be_is_said_at_its_row(
    world: World, written: tuple[str, str, str], says: str
) -> None:
    before = await stored(world)
    async with logged_in(world) as browser:
        row = blank_rows((await browser.get(PATH)).text)[0]
        filled = zip(("device", "metric", "meter"), written, strict=True)
        await browser.send(PATH, **{f"{row}.{name}": text for name, text in filled})
        assert browser.page.status_code == 409
        faults = html.unescape(" ".join(re.findall(r'class="fault">([^<]*)', browser.page.text)))
        assert says.lower() in faults.lower(), browser.page.text
        assert 'value="temp' in browser.page.text and len(blank_rows(browser.page.text)) >= 2
    assert await stored(world) == before
