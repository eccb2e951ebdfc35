"""Days and shifts of a zone whose clocks are changed: what a system holds in the end is what a plain reading of
all samples gives over the windows that a clock on the wall shows, whatever order they came in.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.model.arithmetic import PLAIN
from gateway.model.meter import MeterRule
from gateway.model.sample import Value
from gateway.settings import CreditsSettings
from gateway.store.credits import sync_capacity
from gateway.store.pool import Database
from tests.fixtures.scripted import Scripted
from tests.fixtures.sync_rig import Rig
from tests.property.test_calendar import boundaries, calendar
from tests.property.test_reduce import ARITHMETIC, Samples, reading, reduced, same, unusable

HOUR = timedelta(hours=1)
LENGTH = timedelta(days=6)
MARGIN = timedelta(days=3)
KINDS = ("day", "shift")
REDUCTIONS = tuple(reduce for reduce in ARITHMETIC if reduce != "each")
PLACES = [
    ("Europe/Berlin", datetime(2026, 3, 26, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2025, 10, 23, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2025, 10, 2, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 2, tzinfo=UTC)),
    ("Pacific/Apia", datetime(2011, 12, 27, tzinfo=UTC)),
    ("America/Havana", datetime(2023, 11, 2, tzinfo=UTC)),
    ("America/St_Johns", datetime(2008, 10, 30, tzinfo=UTC)),
]
_numbers = itertools.count()


@dataclass(frozen=True)
class Place:
    """Where, and when the first sample may be."""

    zone: str
    base: datetime

    @property
    def rules(self) -> tuple[MeterRule, ...]:
        return tuple(
            MeterRule(
                device="d",
                metric="t",
                meter=f"{reduce} {kind}{' reckoned' if is_reckoned else ''}",
                reduce=reduce,  # type: ignore[arg-type]
                every=calendar(kind, self.zone),
                arithmetic=replace(ARITHMETIC[reduce], hold=None) if is_reckoned else PLAIN,
            )
            for kind in KINDS
            for reduce in REDUCTIONS
            for is_reckoned in (False, True)
        )


@cache
def windows_of(kind: str, place: Place) -> list[tuple[datetime, datetime]]:
    zone = ZoneInfo(place.zone)
    begins = boundaries(kind, zone, place.base - MARGIN, place.base + LENGTH + MARGIN)
    return list(itertools.pairwise(begins))


@st.composite
def samples_of(draw: st.DrawFn, place: Place) -> Samples:
    edges = [begin for kind in KINDS for begin, _ in windows_of(kind, place)]
    edges = [at for at in edges if place.base <= at < place.base + LENGTH]
    beside = st.sampled_from([timedelta(microseconds=-1), timedelta(0), timedelta(0), timedelta(minutes=20)])
    near = st.builds(lambda at, by: at + by, st.sampled_from(edges), beside)
    anywhen = st.integers(0, 6 * 48 - 1).map(lambda half: place.base + half * HOUR / 2)
    values = st.integers(0, 1000) | st.floats(-50, 2000, allow_nan=False) | st.booleans() | st.just("on")
    return draw(st.dictionaries(near | anywhen, values, min_size=1, max_size=12))


@st.composite
def lives(draw: st.DrawFn) -> tuple[Place, list[Samples], int, list[bool]]:
    """A place, what came in each transaction, how many of these came before the connection, and after which of
    the others it ran.
    """
    place = Place(*draw(st.sampled_from(PLACES)))
    written = draw(st.lists(samples_of(place), min_size=1, max_size=5))
    return place, written, draw(st.integers(0, 2)), draw(st.lists(st.booleans(), min_size=5, max_size=5))


def expected(place: Place, samples: Samples) -> dict[tuple[str, datetime], Value]:
    wanted = {}
    for rule in place.rules:
        for begin, end in windows_of(rule.meter.split()[1], place):
            value = reduced(rule, samples, begin, end)
            if value is not None:
                wanted[rule.meter, begin] = reading(rule, value)
    return wanted


@given(life=lives())
@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_every_reduction_agrees_with_clocks_on_the_wall(
    database: Database, life: tuple[Place, list[Samples], int, list[bool]]
) -> None:
    place, written, history, runs = life
    connector, name = Scripted(), f"calendar{next(_numbers)}"
    await sync_capacity(database, CreditsSettings(capacity=10_000_000))
    rig = Rig(database, connector, name=name, customer=name, rules=place.rules, initial_days=1)
    stored: Samples = {}
    for samples in written[:history]:
        await rig.store(*[("d", at, value) for at, value in samples.items()])
        stored |= samples
    await rig.activate()
    await rig.execute(
        "update stream set initial_from = $2, initial_cursor = $2, initial_until = $3"
        " where connection_id = $1 and phase = 'initial'",
        name, place.base - HOUR, place.base + LENGTH + HOUR,
    )  # fmt: skip
    for samples, is_run in zip(written[history:], runs, strict=False):
        await rig.store(*[("d", at, value) for at, value in samples.items()])
        stored |= samples
        if is_run:
            await rig.run()
    assert (await rig.run("initial"))["state"] == "done"
    await rig.run()

    wanted, delivered = expected(place, stored), await rig.delivered()
    assert {
        key: (delivered.get(key), value)
        for key, value in wanted.items()
        if not same(delivered.get(key), value)
    } == {}
    dead = {(row["meter"], row["window_start"]): row["reason"] for row in await rig.dead()}
    assert set(dead.values()) <= {"unusable_value", "withdrawn"}
    bad = {
        (rule.meter, begin)
        for rule in place.rules
        for begin, end in windows_of(rule.meter.split()[1], place)
        if unusable(rule, stored, begin, end)
    }
    assert bad <= dead.keys(), "what has no value is told"
    assert delivered.keys() - wanted.keys() <= {key for key in dead if dead[key] == "withdrawn"}
    assert {(r.meter, r.window_start): r.value for r in connector.taken} == delivered
    assert await rig.due() == []
    for kind in KINDS:
        begins = [begin for begin, _ in windows_of(kind, place)]
        cut = await rig.rows(
            "select window_start from calendar_window where customer_id = $1 and calendar = $2",
            name, calendar(kind, place.zone).key,
        )  # fmt: skip
        touched = {begins[bisect_right(begins, at) - 1] for at in stored}
        assert touched <= {row["window_start"] for row in cut}
