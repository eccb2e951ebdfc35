"""The oracle itself: what it expects of a small ledger, and that it notices each kind of fault."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, cast

import pytest

from benchmarks.servers import wait_until
from tests.fixtures.unreliable import Unreliable
from tests.soak.faults import Faults
from tests.soak.followed import Journal, Seen, State, judge_followed
from tests.soak.oracle import Expected, Held, Ledger, Rule, Value, Window, expect, judge
from tests.soak.paused import Pause, judge_paused
from tests.soak.raised import Alert, Episode, Limit, Order, episodes, judge_raised
from tests.soak.receivers import microseconds
from tests.soak.resources import summed
from tests.soak.shape import FAULTS, SECOND, Shape, shape
from tests.soak.source import Grants
from tests.soak.workplace import PLANT, SHOP

PUMP = ("acme", "pump")
RULES = [
    *(Rule(name=kind, metric="v", reduce=kind, every=2 * SECOND) for kind in ("last", "mean", "min", "max", "sum", "count")),
    Rule(name="delta", metric="c", reduce="delta", every=2 * SECOND),
    Rule(name="each", metric="v", reduce="each"),
    Rule(name="band", metric="v", reduce="last", every=SECOND, deadband=3.0),
    Rule(name="mixed", metric="m", reduce="mean", every=2 * SECOND),
    Rule(name="refused", metric="v", reduce="max", every=2 * SECOND, refused=True),
]  # fmt: skip


def ledger() -> Ledger:
    """Two windows of two seconds; a sample on the boundary; a correction, published after and acknowledged
    before another.
    """
    made = Ledger()
    said: list[tuple[int, dict[str, Value]]] = [
        (0, {"v": 1.0, "c": 10.0, "m": 1.0}),
        (SECOND, {"v": 5.0, "c": 12.0, "m": 2.0}),
        (2 * SECOND - 1, {"v": 3.0, "c": 1.0}),
        (2 * SECOND, {"v": 8.0, "c": 4.0, "m": "n/a"}),
    ]
    for number, (at, metrics) in enumerate(said):
        made.note(PUMP, at, metrics, number)
    made.note(PUMP, SECOND, {"v": 6.0, "m": "n/a"}, 8)
    made.note(PUMP, SECOND, {"v": 6.0, "m": 2.0}, 11)
    made.note(PUMP, SECOND, {"v": 7.0}, 10)  # published before the one above: it does not count
    return made


def test_what_is_expected() -> None:
    expected = expect(RULES, "acme", ledger())
    first = {
        name: expected.values["pump/" + name, 0]
        for name in ("last", "mean", "min", "max", "sum", "count", "delta", "mixed")
    }
    assert first == {
        "last": 3.0, "mean": 10 / 3, "min": 1.0, "max": 6.0, "sum": 10.0, "count": 3.0, "delta": 3.0, "mixed": 1.5,
    }  # fmt: skip
    second = {name: expected.values["pump/" + name, 2 * SECOND] for name in ("last", "sum", "count", "delta")}
    assert second == {"last": 8.0, "sum": 8.0, "count": 1.0, "delta": 3.0}
    assert {start for meter, start in expected.values if meter == "pump/each"} == {
        0,
        SECOND,
        2 * SECOND - 1,
        2 * SECOND,
    }
    assert ("pump/each", SECOND) not in expected.steady
    assert ("pump/each", 0) in expected.steady
    assert expected.possible["pump/each", SECOND] == {5.0, 6.0, 7.0}
    assert expected.dead == {("pump/refused", 0), ("pump/refused", 2 * SECOND), ("pump/mixed", 2 * SECOND)}
    assert expect(RULES, "globex", ledger()).values == {}


def test_the_first_number_of_a_counter_is_no_increase() -> None:
    made = Ledger()
    made.note(PUMP, 0, {"c": 10.0}, 0)
    assert expect([RULES[6]], "acme", made).values == {}


def test_a_small_fall_of_a_counter_is_noise_and_a_large_one_a_beginning() -> None:
    made = Ledger()
    for number, value in enumerate((10.0, 9.5, 12.0, 5.5, 6.0)):
        made.note(PUMP, number, {"c": value}, number)
    assert expect([RULES[6]], "acme", made).values["pump/delta", 0] == 2.5 + 5.5 + 0.5


def perfect() -> tuple[Expected, Held, set[Window]]:
    """What a system holds where nothing went wrong: of the deadband, what is sent in order."""
    expected = expect(RULES, "acme", ledger())
    values = {
        window: value
        for window, value in expected.values.items()
        if window != ("pump/band", SECOND - SECOND % SECOND)
    }
    values["pump/band", 0], values["pump/band", SECOND], values["pump/band", 2 * SECOND] = 1.0, 3.0, 8.0
    del values["pump/band", SECOND]  # 3.0 lies within 3.0 of 1.0
    held = Held(values=values, told={window: [value] for window, value in values.items()})
    return expected, held, set(expected.dead)


def faults(expected: Expected, held: Held, dead: set[Window]) -> dict[str, int]:
    verdict = judge(expected, held, dead, reasons={})
    assert verdict.faults == sum(len(getattr(verdict, kind)) for kind in KINDS)
    return {kind: len(getattr(verdict, kind)) for kind in KINDS if getattr(verdict, kind)}


KINDS = ("lost", "wrong", "duplicated", "invented", "silent", "dead")
Break = Callable[[Held, set[Window]], object]


def test_nothing_is_wrong_where_nothing_is() -> None:
    assert faults(*perfect()) == {}


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda held, dead: held.values.pop(("pump/sum", 0)), {"lost": 1}),
        (lambda held, dead: held.values.update({("pump/sum", 0): 10.125}), {"wrong": 1}),
        (lambda held, dead: held.values.update({("pump/sum", 0): "10.0"}), {"wrong": 1}),
        (lambda held, dead: held.values.update({("pump/sum", 40 * SECOND): 1.0}), {"wrong": 1}),
        (lambda held, dead: held.values.update({("pump/mixed", 2 * SECOND): 1.0}), {}),
        (lambda held, dead: held.values.update({("pump/refused", 0): 6.0}), {"wrong": 1}),
        (lambda held, dead: held.told.update({("pump/sum", 0): [10.0, 10.0]}), {"duplicated": 1}),
        (lambda held, dead: held.told.update({("pump/sum", 0): [9.0, 10.0]}), {}),
        (lambda held, dead: held.told.update({("pump/each", 0): [2.0, 1.0]}), {"duplicated": 1, "invented": 1}),
        (lambda held, dead: held.told.update({("pump/each", SECOND): [5.0, 7.0, 6.0]}), {}),
        (lambda held, dead: held.values.pop(("pump/band", 2 * SECOND)), {"lost": 1}),
        (lambda held, dead: held.values.pop(("pump/band", 0)), {"lost": 2}),
        (lambda held, dead: held.values.update({("pump/band", SECOND): 3.0}), {}),
        (lambda held, dead: held.values.update({("pump/band", SECOND): 2.0}), {"wrong": 1}),
        (lambda held, dead: dead.discard(("pump/mixed", 2 * SECOND)), {"silent": 1}),
        (lambda held, dead: dead.add(("pump/mixed", 0)), {}),
        (lambda held, dead: dead.add(("pump/sum", 0)), {"dead": 1}),
        (lambda held, dead: (dead.add(("pump/sum", 0)), held.values.pop(("pump/sum", 0))), {"dead": 1}),
        (lambda held, dead: (dead.add(("pump/mixed", 0)), held.values.pop(("pump/mixed", 0))), {"lost": 1}),
    ],
)  # fmt: skip
def test_each_fault_is_noticed_as_what_it_is(spoil: Break, found: dict[str, int]) -> None:
    expected, held, dead = perfect()
    spoil(held, dead)
    assert faults(expected, held, dead) == found


def test_repeats_are_counted_where_they_are_allowed() -> None:
    expected, held, dead = perfect()
    held.told["pump/each", 0], held.repeats_are_errors = [1.0, 1.0, 1.0], False
    verdict = judge(expected, held, dead, reasons={})
    assert (verdict.faults, verdict.repeats) == (0, 2)


def test_what_no_double_can_hold_may_be_refused_but_not_rounded() -> None:
    made, rules, large = Ledger(), [Rule(name="huge", metric="h", reduce="each")], 2**53 + 1
    made.note(PUMP, 0, {"h": large}, 0)
    expected, window = expect(rules, "acme", made), ("pump/huge", 0)
    assert faults(expected, Held(values={window: large}), set()) == {}
    assert faults(expected, Held(), {window}) == {}
    assert faults(expected, Held(), set()) == {"lost": 1}
    assert faults(expected, Held(values={window: float(large)}), set()) == {"wrong": 1}


def test_a_seed_decides_everything() -> None:
    def made(seed: int) -> object:
        return shape(seed, seconds=600, replicas=[1, 2, 3], rate=25)

    assert made(5) == made(5)
    assert made(5) != made(6)
    planned = shape(5, seconds=3600, replicas=[3], rate=25)
    assert {fault.kind for fault in planned.faults} == {kind for kind, _ in FAULTS}
    assert shape(5, seconds=60, replicas=[1], rate=1, only=["none"]).faults == []


def test_times_are_exact() -> None:
    assert microseconds("2026-11-28T18:00:00.000001Z") - microseconds("2026-11-28T18:00:00Z") == 1


def test_a_text_among_numbers_takes_the_value_of_the_window_until_it_is_corrected() -> None:
    made, rule = Ledger(), [Rule(name="mixed", metric="m", reduce="mean", every=2 * SECOND)]
    made.note(PUMP, 0, {"m": 1.0}, 0)
    made.note(PUMP, SECOND, {"m": "n/a"}, 1)
    window = ("pump/mixed", 0)
    assert expect(rule, "acme", made).dead == {window}
    assert faults(expect(rule, "acme", made), Held(), set()) == {"silent": 1}
    assert faults(expect(rule, "acme", made), Held(values={window: 1.0}), {window}) == {}
    made.note(PUMP, SECOND, {"m": 3.0}, 2)
    assert faults(expect(rule, "acme", made), Held(values={window: 2.0}), {window}) == {}
    assert faults(expect(rule, "acme", made), Held(values={window: 1.0}), {window}) == {"wrong": 1}
    assert faults(expect(rule, "acme", made), Held(), set()) == {"lost": 1}


ORDER = ("plant", "orders", "o1")


def journal(*states: State) -> Journal:
    made = Journal()
    for state in states:
        made.note(ORDER, state)
    return made


def seen(*told: tuple[int, State]) -> Seen:
    made = Seen()
    for version, state in told:
        change = "deleted" if state is None else "modified"
        item = {"connection": "plant", "stream": "orders", "key": "o1", "change": change, "version": version}
        made.note({**item, "body": state or {"n": 0}})
    return made


ONE, TWO, THREE = ({"n": number} for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ([(1, ONE), (2, TWO), (3, None), (4, THREE)], []),
        ([(1, TWO), (2, THREE)], []),  # two changes in a moment are one
        ([(1, ONE), (2, TWO), (3, None)], ["missed"]),
        ([], ["missed"]),
        ([(1, ONE), (2, {"n": 9}), (3, THREE)], ["invented"]),
        ([(1, TWO), (2, ONE), (3, THREE)], ["disordered"]),
        ([(1, ONE), (2, ONE), (3, THREE)], ["disordered"]),
        ([(1, ONE), (2, THREE), (2, THREE)], ["repeated"]),
        ([(1, ONE), (3, THREE), (2, TWO)], ["repeated"]),
        ([(1, ONE), (2, THREE), (3, None)], ["missed", "disordered"]),
    ],
)
def test_what_a_follower_may_not_see(told: list[tuple[int, State]], found: list[str]) -> None:
    states = journal(ONE, TWO, TWO, None, THREE)
    verdict = judge_followed(states, seen(*told), once=True)
    assert [fault.partition(":")[0] for fault in verdict.faults] == found
    over_mqtt = judge_followed(states, seen(*told), once=False)
    assert [fault.partition(":")[0] for fault in over_mqtt.faults] == [
        kind for kind in found if kind != "repeated"
    ]


def test_a_record_of_nothing_is_invented_and_what_was_deleted_unseen_is_not_missed() -> None:
    assert judge_followed(journal(), seen((1, ONE)), once=True).faults
    assert not judge_followed(journal(ONE, None), seen(), once=True).faults


LIMITS = Limit(above=90, clear_below=85, lasts=2, hold_off=5)


@pytest.mark.parametrize(
    ("values", "right"),
    [
        ([91, 91, 91, 80], [(0, 2, 3)]),
        ([91, 91, 80, 91, 91, 80], []),  # never for long enough
        ([91, 91, 90, 91, 91, 91], [(3, 5, None)]),  # what does not break it begins anew
        ([91, 91, 91, 86, 85, 84], [(0, 2, 5)]),
        ([91, 91, 91, 80, 91, 91, 91, 91, 91, 80], [(0, 2, 3), (4, 8, 9)]),  # still holds after its rest
        ([91, 91, 91, 80, 91, 91, 91, 80, 80, 91], [(0, 2, 3)]),
    ],
)
def test_episodes_of_a_log(values: list[float], right: list[Episode]) -> None:
    assert episodes(LIMITS, dict(enumerate(values))) == right


@dataclass
class Shown:
    """A gateway and a system that agree, to be spoiled."""

    alerts: list[Alert]
    orders: list[Order]

    def change(self, **what: Any) -> None:
        self.alerts[0] = replace(self.alerts[0], **what)


def agreed() -> Shown:
    alert = Alert(
        reference="a", device="pump", episode=(0, 2, 3), state="cleared", is_withdrawn=False, order=7
    )
    gone = replace(alert, reference="b", episode=(9, 9, 9), is_withdrawn=True, order=None)
    return Shown([alert, gone], [Order(number=7, reference="a", notes=1)])


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda shown: None, []),
        (lambda shown: shown.orders.append(Order(number=8, reference="a", notes=1)), ["a: 2 work orders"]),
        (lambda shown: shown.orders.append(Order(number=8, reference="x", notes=1)), ["x: a work order of no alert"]),
        (lambda shown: shown.orders.clear(), ["a: no work order"]),
        (lambda shown: shown.change(order=8), ["a: is 8, the work order is 7"]),
        (lambda shown: shown.change(order=None), ["a: is None, the work order is 7"]),
        (lambda shown: shown.change(state="raised"), ["a: is raised at the end"]),
        (lambda shown: shown.orders.__setitem__(0, Order(number=7, reference="a", notes=0)),
         ["a: nothing says at the work order that it is over"]),
        (lambda shown: shown.change(episode=(0, 2, 4)),
         ["pump: (0, 2, 3) is no alert", "pump: (0, 2, 4) is one, and never was"]),
        (lambda shown: shown.change(is_withdrawn=True), ["pump: (0, 2, 3) is no alert"]),
        (lambda shown: shown.alerts.append(replace(shown.alerts[1], reference="c", is_withdrawn=False)),
         ["pump: (9, 9, 9) is one, and never was", "c: no work order"]),
    ],
)  # fmt: skip
def test_what_may_not_become_of_alerts(spoil: Callable[[Shown], object], found: list[str]) -> None:
    shown = agreed()
    spoil(shown)
    logs = {"pump": dict(enumerate([91.0, 91.0, 91.0, 80.0]))}
    assert judge_raised(LIMITS, logs, shown.alerts, shown.orders) == found


@pytest.mark.parametrize(
    ("asked", "stood", "found"),
    [
        ([9.0, 11.0, 13.0, 20.0], [], []),  # before, on its way, as long as it may be, and resumed
        ([9.0, 14.0, 19.5], [], ["plant: asked 2 times: GET /orders after 4.0 s, GET /orders after 9.5 s"]),
        ([14.0], [(5.0, 10.5)], []),  # who woke up had asked for the last time before
        ([14.0], [(1.0, 9.5), (20.5, 30.0)], ["plant: asked 1 times: GET /orders after 4.0 s"]),
    ],
)
def test_a_system_that_is_asked_while_its_connection_is_paused(
    asked: list[float], stood: list[tuple[float, float]], found: list[str]
) -> None:
    pauses = [Pause(connection=name, begin=10.0, end=20.0) for name in ("plant", "shop")]
    requests = {"plant": [(at, "GET /orders") for at in asked]}
    assert judge_paused(pauses, requests, stood, grace=3.0) == found


@dataclass
class Obliging:
    """A stage that does what it is asked to."""

    shape: Shape
    receivers: dict[str, object] = field(default_factory=dict)
    cutters: dict[str, object] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)

    async def insist(self, path: str, _: object = None, *, seconds: float = 0.0) -> int:
        self.asked.add(path)
        return 202


async def test_pauses_and_full_syncs_reach_every_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Obliging(shape(5, seconds=60, replicas=[1], rate=1))
    faults = Faults(cast(Any, stage), cast(Any, None), cast(Any, None))
    monkeypatch.setattr(Random, "uniform", lambda *_: 0.0)
    for seed in range(100):
        await faults.pause(Random(seed))
        await faults.full_sync(Random(seed))
    names = {*(link.name for link in stage.shape.links), PLANT, SHOP}
    wanted = {f"/v1/connections/{name}/{what}" for name in names for what in ("pause", "resume", "sync")}
    assert stage.asked == wanted
    assert {pause.connection for pause in faults.pauses} == names


def test_a_token_that_comes_again_after_what_it_brought_was_used_is_told() -> None:
    grants = Grants()
    first = grants.grant()
    lost = grants.exchange(first)
    assert lost is not None and grants.exchange(first) == lost and grants.repeats == 1
    assert grants.lets_in(str(lost["access_token"])) and not grants.stale
    assert grants.exchange(first) is None and grants.is_revoked
    assert grants.stale == [f"{first} came again after {lost['access_token']} was used"]
    assert not grants.lets_in(str(lost["access_token"]))
    other, another = grants.grant(), grants.grant()
    assert grants.exchange(other) is not None and grants.exchange(another) is not None
    grants.revoke()
    assert grants.exchange(grants.grant()) is not None and grants.exchange(other) is None


def test_memory_that_grows_is_a_slope_and_a_new_life_is_none() -> None:
    steady = [(second, 200.0, 50) for second in map(float, range(0, 400, 2))]
    growing = [(at, used + at / 36, 50) for at, used, _ in steady]  # 100 MB an hour
    again = [(at + 1000, used - 40, 51) for at, used, _ in growing]
    assert summed([steady])["megabytes_an_hour"] == 0.0
    assert summed([growing, again])["megabytes_an_hour"] == 100.0
    told = summed([growing, again])
    assert (told["lives"], told["descriptors_first"], told["descriptors_last"]) == (2, 50, 51)
    assert summed([steady[:10]])["megabytes_an_hour"] is None


async def test_the_proxy_is_left_while_somebody_is_connected_who_asks_nothing() -> None:
    async with Unreliable("http://127.0.0.1:9") as proxy:
        _, writer = await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2]))
        await wait_until(lambda: proxy.connections > 0, what="the proxy has seen it")
        leaving = asyncio.create_task(proxy.__aexit__(None, None, None))
        await asyncio.wait({leaving}, timeout=10)
        is_left = leaving.done()
        writer.close()
        await leaving
    assert is_left
