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
        assert "fan-*" in page and "scale 0.1" in page and "max silence 6h" in page
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
