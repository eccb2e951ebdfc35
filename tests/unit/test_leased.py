"""Streams that most connections do not have cost nothing where there are none."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

import pytest

from gateway import clock
from gateway.model.errors import StoreUnavailable
from gateway.sync import leased
from gateway.sync.leased import LeasedWork
from gateway.sync.link import ServedConnection


class Leases:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.have: list[str] = []
        self.asked: list[tuple[str, list[str]]] = []
        self.fails = False

    async def with_streams(self, _database: object, connections: Sequence[str]) -> list[str]:
        self.asked.append(("with_streams", list(connections)))
        if self.fails:
            raise StoreUnavailable("away")
        return [name for name in connections if name in self.have]

    async def claim(
        self, _d: object, _o: str, _s: float, connections: Sequence[str], _l: int, *, in_hand: Collection[str]
    ) -> list[Any]:
        self.asked.append(("claim", list(connections)))
        return []

    async def seconds_to_next(self, _database: object, connections: Sequence[str]) -> float | None:
        self.asked.append(("next", list(connections)))
        return 1.0


class Runs:
    """Never called here."""

    async def run(self, *_: object) -> None: ...
    async def crashed(self, *_: object) -> None: ...


LINKS = {name: cast("ServedConnection", None) for name in ("a", "b")}


async def turn(work: LeasedWork[Any], *, without: Collection[str] = ()) -> float | None:
    await work.claim(LINKS, 10, in_hand=[], has_ended=False, without=without)
    return await work.seconds_to_next(LINKS)


async def test_those_of_a_customer_that_has_its_places_are_left_out_for_now() -> None:
    leases = Leases()
    leases.have = ["a", "b"]
    work = LeasedWork[Any](
        cast("Any", None), cast("Any", leases), cast("Any", Runs()), lease_seconds=15.0, owner="x"
    )
    for without, claimed in (((), ["a", "b"]), (("a",), ["b"]), ((), ["a", "b"])):
        leases.asked.clear()
        await turn(work, without=without)
        assert ("claim", claimed) in leases.asked
    leases.asked.clear()
    await turn(work, without=("a", "b"))
    assert [what for what, _ in leases.asked] == ["next"]


async def test_connections_without_streams_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    leases = Leases()
    work = LeasedWork[Any](
        cast("Any", None), cast("Any", leases), cast("Any", Runs()), lease_seconds=15.0, owner="x"
    )
    now = 100.0
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    work.serve(LINKS)
    assert [await turn(work) for _ in range(3)] == [None] * 3
    assert leases.asked == [("with_streams", ["a", "b"])]

    leases.have, leases.asked = ["b"], []
    work.serve(LINKS)  # one began
    assert [await turn(work) for _ in range(2)] == [1.0] * 2
    assert leases.asked == [("with_streams", ["a", "b"]), *[("claim", ["b"]), ("next", ["b"])] * 2]

    leases.have, leases.asked = ["a", "b"], []
    now += leased.ASK_AGAIN_SECONDS  # nobody said so
    await turn(work)
    assert leases.asked[-1] == ("next", ["a", "b"])


async def test_a_database_that_was_away_is_asked_again() -> None:
    leases = Leases()
    leases.have, leases.fails = ["a"], True
    work = LeasedWork[Any](
        cast("Any", None), cast("Any", leases), cast("Any", Runs()), lease_seconds=15.0, owner="x"
    )
    work.serve(LINKS)
    with pytest.raises(StoreUnavailable):
        await turn(work)
    leases.fails = False
    assert await turn(work) == 1.0
