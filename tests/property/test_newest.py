"""Samples that are later than all that are stored are inserted without a look at what is there. Whatever comes
(repeats, merges, late samples, equal times, other writers, commits of which nobody hears), the tables are what
the statement that looks makes of it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.errors import StoreUnavailable
from gateway.model.newest import Batch, Device, Newest, is_later
from gateway.store import queries, telemetry
from gateway.store.pool import Connection, Database
from gateway.store.telemetry import Sample, TelemetryStore, Written, in_order

START = 1_772_409_599_999_900
"""A tenth of a millisecond before a day ends: the samples are of two days."""
LOOKS, ADDS = "telemetry_write", "telemetry_add"
STATE = """
select device_id, ts, metrics, received_at, changes, revision, null::bigint as reaches from telemetry where customer_id = $1
union all select null, day, null, null, null, null, reaches from customer_day where customer_id = $1
union all select null, null, null, null, null, position, null from customer_log where customer_id = $1
order by 1, 2
"""


class Looking(Newest):
    """Knows nothing, so that PostgreSQL is always asked what is there."""

    def put(self, *_: object, **__: object) -> None:
        pass


class Deaf(Database):
    """Does not hear of the commit when it is told to."""

    is_deaf = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        async with super().connection() as connection:
            yield connection
        self._fail()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        async with super().transaction() as connection:
            yield connection
        self._fail()

    def _fail(self) -> None:
        if self.is_deaf:
            self.is_deaf = False
            raise StoreUnavailable("the connection is gone")


@pytest.fixture
async def deaf(dsn: str) -> AsyncIterator[Deaf]:
    opened = await Deaf.open(dsn, size=4)
    assert isinstance(opened, Deaf)
    yield opened
    await opened.close()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each statement was used."""
    count = Counter[str]()

    def sql(name: str) -> str:
        count[name] += 1
        return queries.sql(name)

    monkeypatch.setattr(telemetry, "sql", sql)
    return count


class Side:
    """One customer, written by its own store; `looks`: as it was always done."""

    def __init__(self, database: Deaf, customer: str, *, looks: bool) -> None:
        self._database = database
        self._customer = customer
        self._looks = looks
        self.restart()

    def restart(self) -> None:
        """As a process that has just taken the partition over."""
        self.store = TelemetryStore(self._database, register_customers=True)
        if self._looks:
            self.store._newest = Looking()

    async def write(self, batch: Sequence[Sample]) -> Written:
        return await self.store.write(self._theirs(batch), [])

    async def write_unheard(self, batch: Sequence[Sample]) -> Written:
        """The commit comes through and its answer does not; then the batch is tried again."""
        await self.store._ensure_partitions(telemetry.days_of(in_order(self._theirs(batch))))
        self._database.is_deaf = True
        with pytest.raises(StoreUnavailable):
            await self.write(batch)
        return await self.write(batch)

    async def written_beside(self, batch: Sequence[Sample]) -> Written:
        """By another process, as a replay does it."""
        return await TelemetryStore(self._database, register_customers=True).write(self._theirs(batch), [])

    async def state(self) -> list[tuple[Any, ...]]:
        async with self._database.connection() as connection:
            return [tuple(row.values()) for row in await connection.fetch(STATE, self._customer)]

    def _theirs(self, batch: Sequence[Sample]) -> list[Sample]:
        return [((self._customer, key[1], key[2]), metrics, at) for key, metrics, at in batch]


@pytest.mark.parametrize("seed", range(12))
async def test_the_tables_are_the_same_as_if_each_sample_were_looked_for(
    deaf: Deaf, asked: Counter[str], seed: int
) -> None:
    dice = random.Random(seed)
    fast, slow = (Side(deaf, name, looks=looks) for name, looks in (("fast", False), ("slow", True)))
    at, batch = START, list[Sample]()
    for number in range(40):
        at += dice.choice([0, 6, 6, 6])
        before, batch = batch, _drawn(dice, at, number)
        step = dice.choice(
            ["write"] * 20 + ["again", "again after a restart", "restart", "unheard", "beside"]
        )
        results = []
        for side in (fast, slow):
            match step:
                case "write":
                    results.append(await side.write(batch))
                case "again":
                    results.append(await side.write(before))
                case "again after a restart":
                    side.restart()
                    results += [await side.write(before), await side.write(batch)]
                case "restart":
                    side.restart()
                    results.append(await side.write(batch))
                case "unheard":
                    results.append(await side.write_unheard(batch))
                case "beside":
                    results.append(await side.written_beside(batch))
                case _:
                    raise AssertionError(step)
        assert results[: len(results) // 2] == results[len(results) // 2 :], (number, step)
        assert await fast.state() == await slow.state(), (number, step)
    assert asked[ADDS] > 5 and asked[LOOKS] > 40, asked


async def test_what_is_later_is_added_and_what_is_not_is_looked_for(deaf: Deaf, asked: Counter[str]) -> None:
    side = Side(deaf, "acme", looks=False)

    async def used(*times: int) -> str:
        asked.clear()
        await side.write([(("", "d1", START + at), {"t": float(at)}, START) for at in times])
        return "".join(f"{name} " * asked[name] for name in (ADDS, LOOKS)).strip()

    assert await used(5, 6) == LOOKS, "nothing is known of the device"
    assert await used(7, 8) == ADDS
    assert await used(8) == LOOKS, "an equal time"
    assert await used(9) == ADDS
    assert await used(3) == LOOKS, "late"
    assert await used(10) == ADDS, "what is known is the newest, and not the last one"
    side.restart()
    assert await used(9, 10) == LOOKS
    assert await used(11) == LOOKS, "behind what came again more may come again"
    assert await used(12) == ADDS


async def test_a_sample_that_another_writer_stored_is_found(deaf: Deaf, asked: Counter[str]) -> None:
    """The key refuses the batch; it is stored all the same, once, and merged."""
    side = Side(deaf, "acme", looks=False)
    await side.write([(("", "d1", START), {"t": 1.0}, START)])
    await side.written_beside([(("", "d1", START + 2), {"t": 2.0}, START)])
    asked.clear()
    batch: list[Sample] = [(("", "d1", START + at), {"u": 3.0}, START) for at in (1, 2, 3)]
    written = await side.write(batch)
    assert (written.stored, written.modified) == (2, 1) and asked[ADDS] == asked[LOOKS] == 1
    rows = {row[1]: (row[2], row[4]) for row in await side.state() if row[0] == "d1"}
    assert list(rows.values()) == [
        ({"t": 1.0}, 0), ({"u": 3.0}, 0), ({"t": 2.0, "u": 3.0}, 1), ({"u": 3.0}, 0),
    ]  # fmt: skip
    assert (await side.write(batch)).stored == 0


times = st.sets(st.integers(0, 12), min_size=1)
drawn_batches = st.lists(st.dictionaries(st.sampled_from(["d1", "d2"]), times, min_size=1))


@given(drawn_batches)
def test_where_one_writes_alone_what_is_later_is_later_than_all(drawn: list[Mapping[str, set[int]]]) -> None:
    newest, stored = Newest(), dict[Device, set[int]]()
    for given_times in drawn:
        batch = _batch(given_times)
        known = newest.take(batch)
        later = all(max(stored.get(("acme", name), {99})) < min(ats) for name, ats in given_times.items())
        is_new = not any(stored.get(("acme", name), set()) & ats for name, ats in given_times.items())
        if is_later(batch, known):
            assert later
        elif all(("acme", name) in known for name in given_times):
            assert not later
        newest.put(batch, known, is_new=is_new)
        for name, ats in given_times.items():
            stored.setdefault(("acme", name), set()).update(ats)


def test_of_a_write_that_did_not_end_nothing_is_known() -> None:
    newest, first, second = Newest(), _batch({"d1": {1}, "d2": {1}}), _batch({"d1": {2}})
    newest.put(first, newest.take(first), is_new=True)
    assert is_later(second, newest.take(second))
    assert not is_later(second, newest.take(second)), "nobody said that it is stored"
    other = _batch({"d2": {2}})
    assert is_later(other, newest.take(other)), "of other devices it is as it was"


def _batch(drawn: Mapping[str, set[int]]) -> Batch:
    return {
        ("acme", name): [(("acme", name, at), {}, 0) for at in sorted(ats)]
        for name, ats in sorted(drawn.items())
    }


def _drawn(dice: random.Random, at: int, number: int) -> list[Sample]:
    """Samples of a few devices, mostly later than what was drawn before; no key twice."""
    found: dict[tuple[str, str, int], Sample] = {}
    for device in dice.sample(["d1", "d2", "d3", "d4"], dice.choice([1, 1, 2, 3])):
        for step in range(dice.choice([1, 1, 2, 5])):
            when = at + step if dice.random() < 0.98 else at - dice.randrange(8)
            metrics = {name: dice.choice([1.0, True, "on", float(number)]) for name in dice.sample("tuv", 2)}
            found["", device, when] = (("", device, when), metrics, START + number)
    return list(found.values())
