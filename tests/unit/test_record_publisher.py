"""Records of one customer are published whatever becomes of another's."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest

from gateway.events import record_publisher
from gateway.events.record_publisher import MAX_REST_SECONDS, RESTS, RecordPublisher
from gateway.model.errors import StoreRejected, StoreUnavailable
from gateway.model.pressure import Pressure
from gateway.settings import Settings


class Log:
    """Of customers that all have something to be told; `failing` raise, and nothing is retained."""

    def __init__(self, *customers: str, failing: Mapping[str, Exception] | None = None) -> None:
        self.customers, self.failing = customers, failing or {}
        self.told_of: list[str] = []

    async def behind(self, _database: object) -> dict[str, int]:
        return dict.fromkeys(self.customers, 0)

    async def to_tell(self, _d: object, customer: str, _p: int, _limit: int) -> tuple[list[Any], int]:
        if customer in self.failing:
            raise self.failing[customer]
        return [], 1

    async def told(self, _d: object, customer: str, _position: int) -> None:
        self.told_of.append(customer)

    async def note_retained(self, *_: object, **__: object) -> None: ...
    async def unwanted(self, *_: object) -> list[Any]:
        return []

    async def of_ended(self, *_: object) -> list[Any]:
        return []

    async def remove(self, *_: object) -> None: ...


def publisher(monkeypatch: pytest.MonkeyPatch, log: Log, pressure: Pressure | None = None) -> RecordPublisher:
    monkeypatch.setattr(record_publisher, "records", log)
    settings = Settings.model_validate({"security": {"encryption_keys": ["k"]}})
    return RecordPublisher(settings, cast("Any", None), owner="x", pressure=pressure)


async def test_what_postgresql_refuses_of_one_customer_holds_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = Log("acme", "globex", failing={"acme": StoreRejected("a record of acme")})
    assert await publisher(monkeypatch, log).round(cast("Any", None))
    assert log.told_of == ["globex"]


async def test_a_database_that_is_away_is_away_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log("acme", "globex", failing={"acme": StoreUnavailable("away")})
    with pytest.raises(StoreUnavailable):
        await publisher(monkeypatch, log).round(cast("Any", None))
    assert log.told_of == []


async def test_a_rest_follows_each_step_and_is_short_however_long_the_broker_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a round of a thousand customers it would be minutes, for whoever comes anew too."""
    log, pressure = Log("acme", "globex", "initech"), Pressure()
    rests: list[tuple[int, float]] = []
    company: list[int] = []

    async def sleep(seconds: float) -> None:
        rests.append((len(log.told_of), seconds))

    def rest(_: float, *, now: float, times: float) -> float:
        assert times == RESTS
        company.append(pressure._company)
        return 0.01 if len(log.told_of) < 3 else 60.0

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(pressure, "rest", rest)
    await publisher(monkeypatch, log, pressure).round(cast("Any", None))
    assert set(company) == {1}, "others that are in no hurry know of it"
    assert pressure._company == 0
    assert [told for told, _ in rests] == [0, 1, 1, 2, 2, 3], (
        "after what is to be told is read, and after it is"
    )
    assert {seconds for _, seconds in rests[:-1]} == {0.01} and rests[-1][1] == MAX_REST_SECONDS
