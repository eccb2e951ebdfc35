"""Quotas: how much of a rate is free, what is refused and what is kept of it. Times and sizes are parts of two,
so that what is counted here in messages and bytes is exactly what is counted there in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.quota import Bucket, Excess, Quota, QuotaKind

QUOTA = Quota(
    messages_per_second=4, bytes_per_second=1024, devices=7, metrics_per_device=9, stored_bytes=None
)
BURST, DEAD_BURST = 60, 2
MOST = 1 << 20
"""Bytes of dead letters that a customer may keep."""


@dataclass
class Account:
    """What is left, in messages and bytes."""

    messages: float = BURST * 4.0
    bytes: float = BURST * 1024.0
    dead: float = DEAD_BURST * 1024.0

    def passes(self, seconds: float, *, grace: float = 0.0) -> None:
        self.messages = min((BURST + grace) * 4.0, self.messages + 4.0 * seconds)
        self.bytes = min((BURST + grace) * 1024.0, self.bytes + 1024.0 * seconds)
        self.dead = min((DEAD_BURST + grace) * 1024.0, self.dead + 1024.0 * seconds)

    def add(self, seconds: float) -> None:
        self.messages += 4.0 * seconds
        self.bytes += 1024.0 * seconds
        self.dead += 1024.0 * seconds


WAITS = st.sampled_from([0.0, 0.25, 1.0, 8.0, 64.0])
SIZES = st.sampled_from([0, 1, 256, 1024, 8192, 65536])
STEPS = st.lists(
    st.tuples(st.just("wait"), WAITS, st.sampled_from([0, 0, 4]))
    | st.tuples(st.just("add"), WAITS, st.just(0))
    | st.tuples(st.sampled_from(["message", "dead"]), st.integers(1, 50), SIZES)
    | st.tuples(st.just("charge"), st.integers(0, 300), SIZES),
    max_size=30,
)


@given(STEPS, st.sampled_from([0, 4]))
def test_a_bucket_is_an_account_of_messages_and_bytes(
    steps: list[tuple[str, float, int]], grace: int
) -> None:
    now = 1000.0
    bucket, account = Bucket(now, float(grace)), Account()
    account.add(grace)
    for what, amount, size in steps:
        match what:
            case "wait":
                now += amount
                bucket.refill(now, float(size))
                account.passes(amount, grace=size)
            case "add":
                bucket.add(amount)
                account.add(amount)
            case "message":
                for _ in range(int(amount)):
                    over = (
                        QuotaKind.MESSAGES
                        if account.messages <= 0
                        else QuotaKind.BYTES
                        if account.bytes <= 0
                        else None
                    )
                    assert bucket.refusal(QUOTA, size) is over
                    if over is None:
                        account.messages -= 1
                        account.bytes -= size
            case "dead":
                for _ in range(int(amount)):
                    may = account.dead > 0
                    assert bucket.takes_dead_letter(QUOTA, size) is may
                    account.dead -= size if may else 0
            case "charge":
                account.messages -= amount
                account.bytes -= size
                owed = max(0.0, -account.messages / 4, -account.bytes / 1024)
                assert bucket.charge(QUOTA, int(amount), size) == owed


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 2.0, 100.0, 4000.0]), st.integers(0, MOST // 8))))
def test_what_is_kept_over_quota_fits_its_room_and_comes_in_its_pace(steps: list[tuple[float, int]]) -> None:
    """From any moment on: no more than the room and what became free since; nor than a sixteenth of it, at
    once and with each second, and the last message whole.
    """
    now, bucket = 0.0, Bucket(0.0)
    kept: list[tuple[float, int]] = []
    for wait, size in steps:
        now += wait
        bucket.refill(now)
        if bucket.takes_over_quota(size, MOST):
            kept.append((now, size))
            for place, (since, _) in enumerate(kept):
                together = sum(size for _, size in kept[place:])
                assert together <= MOST * (1 + (now - since) / 3600) + 1
                assert together - size <= MOST / 16 * (1 + now - since) + 1


def test_room_and_pace_come_back_in_their_times() -> None:
    bucket = Bucket(0.0)
    assert bucket.takes_over_quota(MOST // 16, MOST)
    assert not bucket.takes_over_quota(0, MOST)  # the pace is used up
    bucket.refill(1.0)
    assert bucket.takes_over_quota(MOST // 16, MOST) and not bucket.takes_over_quota(1, MOST)
    whole = Bucket(0.0)
    assert not whole.takes_over_quota(MOST + 1, MOST) and whole.takes_over_quota(MOST, MOST)
    for now in (1.0, 15.0):
        whole.refill(now)
        assert not whole.takes_over_quota(0, MOST)
    whole.refill(1800.0)
    assert not whole.takes_over_quota(MOST // 2 + 1, MOST) and whole.takes_over_quota(MOST // 2, MOST)
    assert not Bucket(0.0).takes_over_quota(1, 0)  # nothing may be kept
    before = Bucket(0.0)
    before.refill(7200.0)
    assert not before.takes_over_quota(MOST + 1, MOST)  # no more than all of it, after whatever time


def test_a_bucket_is_over_since_it_began() -> None:
    assert Bucket(5.0).over_at == 5.0


@pytest.mark.parametrize(
    ("kind", "allowed"),
    [
        (QuotaKind.MESSAGES, 4.0),
        (QuotaKind.BYTES, 1024.0),
        (QuotaKind.DEVICES, 7.0),
        (QuotaKind.METRICS, 9.0),
        (QuotaKind.STORED, float("inf")),
    ],
)
def test_each_quota_has_its_number(kind: QuotaKind, allowed: float) -> None:
    assert QUOTA.allowed(kind) == allowed


def test_excesses_add_up_and_the_later_quota_counts() -> None:
    first = Excess(
        customer="acme",
        kind=QuotaKind.METRICS,
        allowed=3.0,
        device="a",
        dead_letters=1,
        dropped=2,
        dropped_bytes=30,
        slowed_seconds=0.5,
    )
    second = Excess(
        customer="acme",
        kind=QuotaKind.METRICS,
        allowed=4.0,
        dead_letters=10,
        dropped=20,
        dropped_bytes=300,
        slowed_seconds=0.25,
    )
    assert first.plus(second) == Excess(
        customer="acme",
        kind=QuotaKind.METRICS,
        allowed=4.0,
        device="a",
        dead_letters=11,
        dropped=22,
        dropped_bytes=330,
        slowed_seconds=0.75,
    )
    assert second.plus(first).device == "a"
    other = Excess(customer="acme", kind=QuotaKind.METRICS, allowed=4.0, device="b")
    assert first.plus(other).device == "b"


@pytest.mark.parametrize("size", [0, 1, 1024, 4096])
def test_a_minute_of_the_rate_is_taken_at_once_and_no_more(size: int) -> None:
    bucket = Bucket(0.0)
    taken = sum(bucket.refusal(QUOTA, size) is None for _ in range(1000))
    assert taken == min(BURST * 4, BURST * 1024 // size if size else BURST * 4)
    bucket.refill(1.0)
    assert bucket.refusal(QUOTA, size) is None
    full = Bucket(0.0)
    full.refill(1000.0)
    assert sum(full.refusal(QUOTA, size) is None for _ in range(1000)) == taken
