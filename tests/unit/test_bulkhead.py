"""The bulkhead: what is contained, what passes, what is counted and said, and what never is."""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import AsyncIterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, get_args

import pytest
from structlog.testing import capture_logs

from benchmarks.servers import PATIENCE
from gateway import bulkhead, metrics
from gateway.bulkhead import contained, readable
from gateway.connections import listed
from gateway.connections.guard import Guarded, guarded
from gateway.model.connector import Connector
from gateway.model.errors import ConnectorError, StoreRejected, StoreUnavailable, Unavailable
from gateway.model.exchange import ListsMeters, RemoteMeter
from gateway.model.outcome import Accepted, Duplicate, Outcome, Rejected, Retry, Superseded, Unknown
from gateway.model.reading import Batch, make_batch
from tests.fixtures.hostile_connector import Unprintable
from tests.fixtures.scripted import Scripted


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulkhead, "_known", {})


def counted() -> float:
    return metrics.REGISTRY.get_sample_value("fieldgate_internal_errors_total", {"part": "run"}) or 0.0


def fail(error: BaseException, subject: str = "acme-1", **how: Any) -> str:
    with contained("run", subject, **how) as made:
        raise error
    assert made.fault is not None
    return made.fault.reference


def test_a_fault_is_counted_each_time_and_said_once_until_it_is_over() -> None:
    before = counted()
    with capture_logs() as logs:
        references = {fail(KeyError(f"a word that differs: {number}")) for number in range(3)}
        with contained("run", "acme-1"):
            pass
        references.add(fail(KeyError("again")))
    assert counted() == before + 4
    assert [line["event"] for line in logs] == [
        "gateway.fault_contained",
        "gateway.fault_ended",
        "gateway.fault_contained",
    ]
    assert len(references) == 1 and {line["reference"] for line in logs} == references
    assert "test_bulkhead.py" in logs[0]["trace"] and logs[0]["subject"] == "acme-1"


def test_another_fault_is_said_and_another_connections_too() -> None:
    with capture_logs() as logs:
        first, second = fail(KeyError()), fail(ValueError())
        third = fail(KeyError(), "acme-2")
    assert len({first, second, third}) == 3 and len(logs) == 3


@pytest.mark.parametrize(
    "error",
    [StoreUnavailable("away"), asyncio.CancelledError(), KeyboardInterrupt(), SystemExit()],
    ids=lambda error: type(error).__name__,
)
def test_what_concerns_all_passes(error: BaseException) -> None:
    with pytest.raises(type(error)), contained("run", "acme-1"):
        raise error


def test_what_was_foreseen_passes_where_it_is_said() -> None:
    with capture_logs() as logs:
        with pytest.raises(ConnectorError), contained("run", "acme-1", passes=(ConnectorError,)):
            raise Unavailable("away")
        with contained("run", "acme-1") as made:
            raise StoreRejected("this data never")
    assert made.fault is not None and len(logs) == 1


def test_a_fault_that_was_contained_before_keeps_its_reference() -> None:
    with capture_logs() as logs:
        assert fail(Unavailable("internal error", reference="0ddba11")) == "0ddba11"
    assert logs == []


@pytest.mark.parametrize(
    "secret", ["p@ssfrase:w/rd", "schlüssel-1", "wrapped\nkey-1", "postgres://u:hunter2@db/x"]
)
def test_no_part_of_a_secret_reaches_the_log(secret: str) -> None:
    pieces = [piece for piece in re.split(r"[@:/\n]+", secret) if len(piece) >= bulkhead.MIN_SECRET]
    with capture_logs() as logs:
        for error in (KeyError(secret), ValueError(f"in {secret!r}"), TypeError(pieces[-1])):
            fail(error, secrets=(secret,))
        fail(OSError("illegal header value b'Bearer abc.def-1'"))
    written = "".join(line["trace"] for line in logs)
    assert len(logs) == 4
    assert secret not in written and repr(secret)[1:-1] not in written and "abc.def" not in written
    assert not [piece for piece in pieces if piece in written]


def test_an_exception_that_cannot_be_printed_is_told_by_its_frames() -> None:
    with capture_logs() as logs:
        fail(Unprintable())
        fail(ExceptionGroup("two", [Unprintable(), KeyError("b")]))
    assert all("test_bulkhead.py" in line["trace"] for line in logs) and len(logs) == 2


def test_rows_that_cannot_be_read_are_left_out_and_said() -> None:
    with capture_logs() as logs:
        assert readable(["1", "x", "3"], int, name=lambda row: f"row {row}") == [1, 3]
    assert [line["subject"] for line in logs] == ["row x"]


def test_every_wait_that_is_stored_is_total() -> None:
    """`in_seconds` takes any number; PostgreSQL's own function raises for one that no calendar holds."""
    folder = Path(__file__).parents[2] / "gateway" / "store" / "sql"
    assert not [path.name for path in folder.glob("*.sql") if "make_interval(secs" in path.read_text()]


OUTCOMES: list[Outcome] = [
    Accepted(remote_id="r"),
    Duplicate(remote_id="r"),
    Rejected(code="c", message="m"),
    Retry(after_seconds=1.0, message="m"),
    Unknown(message="m"),
    Superseded(position=7, message="m"),
]


def guard(connector: Connector) -> Guarded:
    return guarded(connector, "c", secrets=(), max_wait_seconds=60.0, left_behind=set())


async def test_every_outcome_that_a_connector_may_give_passes_the_guard() -> None:
    assert {type(outcome) for outcome in OUTCOMES} == set(get_args(Outcome))

    async def answer(batch: Batch) -> Sequence[Outcome]:
        return OUTCOMES

    batch = make_batch("c", [])
    assert list(await guard(Scripted(answer=answer)).push(batch)) == OUTCOMES


@pytest.mark.parametrize(("delay", "says"), [(0.0, "more than 1,000 meters"), (0.01, "within 0.05 s")])
async def test_a_list_of_meters_that_does_not_end_is_given_up(
    monkeypatch: pytest.MonkeyPatch, delay: float, says: str
) -> None:
    monkeypatch.setattr(listed, "MAX_METERS", 1_000)
    monkeypatch.setattr(listed, "LIST_SECONDS", 0.05 if delay else 60.0)

    class Endless(Scripted):
        async def meters(self) -> AsyncIterator[RemoteMeter]:
            for number in count():
                await asyncio.sleep(delay)
                yield RemoteMeter(meter=str(number), title="", unit=None)

    lister = guard(Endless())
    assert isinstance(lister, ListsMeters)
    with pytest.raises(Unavailable, match=says):
        async with asyncio.timeout(20 * PATIENCE):
            _ = [meter async for meter in lister.meters()]


async def test_what_a_call_raises_after_it_was_cancelled_reaches_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def answer(batch: Batch) -> Sequence[Outcome]:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("hunter2-secret")

    call = asyncio.create_task(guard(Scripted(answer=answer)).push(make_batch("c", [])))
    await asyncio.sleep(0.01)
    call.cancel()
    await asyncio.wait({call})
    del call
    gc.collect()
    await asyncio.sleep(0)
    assert "hunter2" not in caplog.text
