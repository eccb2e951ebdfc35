"""When a device is silent, against a plain account of the seconds in which somebody listened to it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.silence import (
    LATER,
    FallenSilent,
    Heard,
    HeardAgain,
    Sources,
    Waiting,
    Watched,
    judged,
)
from gateway.model.topics import compile_source, partition_of

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
DIVIDED = compile_source("{customer}/{device}/telemetry", "json")
SHARED = compile_source("plant/{device}", "json", customer="globex")
NAMED = compile_source("any/{device}", "json", from_payload=["customer"])
PARTITIONS = 64
SOURCES = Sources(
    sources={source.topic: source for source in (DIVIDED, SHARED, NAMED)},
    silent_after={SHARED.topic: 2 * HOUR},
    default_silent_after=10 * MINUTE,
    customers=frozenset({"acme", "globex"}),
    partitions=PARTITIONS,
)
HEARD = Heard(until=NOW, unheard=0.0, broke_at=NOW - 30 * DAY, resumed_at=NOW - 30 * DAY)
HEARS_ALL = dict.fromkeys(range(PARTITIONS), HEARD)
PUMP = Watched(
    customer="acme",
    device="pump",
    title=None,
    source=DIVIDED.topic,
    first_seen_at=NOW - 10 * DAY,
    last_seen_at=NOW - HOUR,
    unheard=0.0,
    interval=600.0,
    intervals=4,
    is_watched=True,
    watched_at=None,
    silent_since=None,
)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 500)), max_size=20).map(
        lambda spells: [listens for listens, seconds in spells for _ in range(seconds)]
    ),
    st.integers(0, 3000),
)
def test_silence_is_the_time_in_which_somebody_listened(spells: list[bool], sent_at: int) -> None:
    """Of each second it is known whether somebody listened; the message came in the first such since then."""
    listens = [True, *spells, True]
    seen = next((second for second in range(sent_at, len(listens)) if listens[second]), 0)
    start = NOW - timedelta(seconds=len(listens))
    resumed = max((s for s in range(1, len(listens)) if listens[s] and not listens[s - 1]), default=-1)
    broke = max((s for s in range(1, resumed) if listens[s - 1] and not listens[s]), default=-2)
    heard = Heard(
        until=NOW,
        unheard=float(listens.count(False)),
        broke_at=start + timedelta(seconds=broke),
        resumed_at=start + timedelta(seconds=resumed),
    )
    unheard = float(listens[:seen].count(False))
    device = replace(PUMP, last_seen_at=start + timedelta(seconds=seen), unheard=unheard)
    assert heard.since(device) == timedelta(seconds=listens[seen:].count(True))


def test_what_came_while_a_break_is_being_found_counts_from_when_it_was_over() -> None:
    heard = Heard(until=NOW, unheard=500.0, broke_at=NOW - 20 * MINUTE, resumed_at=NOW - 8 * MINUTE)
    late = replace(PUMP, last_seen_at=NOW - 15 * MINUTE, unheard=0.0)
    assert heard.since(late) == 8 * MINUTE
    assert heard.since(replace(late, last_seen_at=NOW - 3 * MINUTE)) == 3 * MINUTE
    at_once = replace(late, last_seen_at=heard.broke_at, unheard=100.0)
    assert heard.since(at_once) == 20 * MINUTE - timedelta(seconds=400)


@pytest.mark.parametrize(
    ("device", "takes"),
    [
        (PUMP, True),
        (replace(PUMP, source=None), True),
        (replace(PUMP, source="gone/{device}"), False),
        (replace(PUMP, customer="initech"), False),
        (replace(PUMP, customer="initech", source=None), False),
    ],
)
def test_what_is_taken_is_of_a_known_source_and_customer(device: Watched, takes: bool) -> None:
    assert SOURCES.takes(device) is takes
    assert replace(SOURCES, customers=None).takes(device) is (device.source in (None, DIVIDED.topic))


@pytest.mark.parametrize(
    ("device", "read_as"),
    [
        (PUMP, "acme"),
        (replace(PUMP, source=None), "acme"),
        (replace(PUMP, source=SHARED.topic), "globex"),
        (replace(PUMP, source=NAMED.topic), NAMED.topic),
    ],
)
def test_a_device_is_looked_for_where_its_messages_are_read(device: Watched, read_as: str) -> None:
    assert SOURCES.partition(device) == partition_of(read_as, PARTITIONS)
    missing = {key: heard for key, heard in HEARS_ALL.items() if key != SOURCES.partition(device)}
    assert judged(device, SOURCES, missing, NOW) == Waiting(due_at=NOW + LATER)


@pytest.mark.parametrize(
    ("changed", "threshold"),
    [
        ({"interval": 600.0}, 30 * MINUTE),
        ({"interval": 1.0}, 10 * MINUTE),  # never before the source's own time
        ({"interval": 1e300}, timedelta(seconds=1e9)),
        ({"interval": None}, DAY),
        ({"intervals": 3}, DAY),
        ({"first_seen_at": NOW - HOUR - 10 * MINUTE}, 30 * MINUTE),
        ({"first_seen_at": NOW - HOUR - 10 * MINUTE + timedelta(seconds=1)}, DAY),
        ({"source": None, "interval": 1.0}, 10 * MINUTE),
        ({"source": SHARED.topic, "interval": 600.0}, 2 * HOUR),
        ({"source": SHARED.topic, "interval": 6000.0}, 5 * HOUR),
    ],
)
def test_a_device_is_silent_after_three_of_its_intervals_or_a_day(
    changed: dict[str, object], threshold: timedelta
) -> None:
    device = replace(PUMP, **changed)  # type: ignore[arg-type]
    assert SOURCES.threshold(device) == threshold
    if threshold <= DAY:
        quiet = replace(
            device,
            first_seen_at=NOW - threshold - (device.last_seen_at - device.first_seen_at),
            last_seen_at=NOW - threshold,
        )
        assert judged(quiet, SOURCES, HEARS_ALL, NOW) == FallenSilent(after=threshold)
        before = NOW - timedelta(seconds=1)
        clock = replace(HEARD, until=before)
        assert isinstance(judged(quiet, SOURCES, dict.fromkeys(HEARS_ALL, clock), before), Waiting)


def test_a_source_may_be_more_patient_than_a_day() -> None:
    assert SOURCES.threshold(replace(PUMP, intervals=0)) == DAY
    patient = replace(SOURCES, default_silent_after=3 * DAY)
    assert patient.threshold(replace(PUMP, intervals=0)) == 3 * DAY


def test_who_was_silent_and_sent_has_returned_at_once() -> None:
    spoke = replace(PUMP, silent_since=NOW - 2 * HOUR)
    assert judged(spoke, SOURCES, {}, NOW) == HeardAgain(due_at=NOW)
    still = replace(PUMP, silent_since=PUMP.last_seen_at)
    assert judged(still, SOURCES, HEARS_ALL, NOW) == FallenSilent(after=30 * MINUTE)


def test_what_is_not_taken_is_not_judged_and_counts_anew_when_it_is() -> None:
    gone = replace(PUMP, customer="initech")
    assert judged(gone, SOURCES, HEARS_ALL, NOW) == Waiting(due_at=NOW + LATER, is_watched=False)
    back = replace(PUMP, is_watched=False)
    clock = replace(HEARD, until=NOW - 5 * MINUTE)
    assert judged(back, SOURCES, dict.fromkeys(HEARS_ALL, clock), NOW) == Waiting(
        due_at=NOW + 10 * MINUTE, watched_at=clock.until
    )


@pytest.mark.parametrize("field", ["watched_at", "refused_until"])
def test_silence_counts_from_when_the_device_could_be_heard_again(field: str) -> None:
    """Taken again, or not over its customer's quota any more."""
    since = replace(PUMP, **{field: NOW - 20 * MINUTE})  # type: ignore[arg-type]
    assert judged(since, SOURCES, HEARS_ALL, NOW) == Waiting(due_at=NOW + 10 * MINUTE)
    long_ago = replace(PUMP, **{field: NOW - 2 * HOUR})  # type: ignore[arg-type]
    assert judged(long_ago, SOURCES, HEARS_ALL, NOW) == FallenSilent(after=30 * MINUTE)


@pytest.mark.parametrize(
    ("changed", "behind", "due"),
    [
        ({"last_seen_at": NOW - 25 * MINUTE}, 0, 5 * MINUTE),
        ({"last_seen_at": NOW - MINUTE}, 0, 15 * MINUTE),  # it may turn out to send more often
        ({"last_seen_at": NOW - MINUTE, "intervals": 0}, 0, 10 * MINUTE),
        ({"last_seen_at": NOW - MINUTE, "source": SHARED.topic, "interval": 6e4}, 0, 2 * HOUR),
        ({"last_seen_at": NOW - 30 * MINUTE + timedelta(milliseconds=10)}, 0, timedelta(seconds=1)),
        ({"last_seen_at": NOW - 29 * MINUTE}, 30, 90 * timedelta(seconds=1)),
        ({"last_seen_at": NOW - 29 * MINUTE}, 31, LATER),
        ({"last_seen_at": NOW - 20 * MINUTE}, 31, 10 * MINUTE + timedelta(seconds=31)),
    ],
)
def test_a_device_is_looked_at_again_when_it_could_be_silent(
    changed: dict[str, object], behind: int, due: timedelta
) -> None:
    device = replace(PUMP, **changed)  # type: ignore[arg-type]
    clock = replace(HEARD, until=NOW - timedelta(seconds=behind))
    assert judged(device, SOURCES, dict.fromkeys(HEARS_ALL, clock), NOW) == Waiting(due_at=NOW + due)
