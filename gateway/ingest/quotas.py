"""Quotas where messages come in: what a customer sends beyond its own is kept from the others of its
partition. One for each partition, whose customers are its own.
"""

from __future__ import annotations

from collections.abc import Collection

from gateway.model.quota import BURST_SECONDS, Bucket, Excess, Quota, QuotaKind
from gateway.quota_settings import QuotasSettings

LETTER_OVERHEAD_BYTES = 500
"""What a dead letter takes beside its topic and payload, roughly."""

MAX_BUCKETS = 10_000
MAX_ABSENCE_SECONDS = 7 * 86_400.0


Used = dict[str | None, list[int]]
"""Messages and bytes of one read, by customer (None: nobody's). A message counts once for each of its
samples.
"""


class Quotas:
    """Charges what comes, says what is over. `owner`: the customer that shares the partition with nobody: its
    reading slows down instead.

    `watched` holds those of whom each message is asked for (`refusal`); all others are charged once a read.
    """

    def __init__(self, settings: QuotasSettings, *, owner: str | None = None) -> None:
        self._settings = settings
        self._owner = owner
        self._known: dict[str | None, Quota] = {}
        self._buckets: dict[str | None, Bucket] = {}
        self._full: frozenset[str] = frozenset()
        self._grace_seconds = 0.0
        self._grace_until = 0.0
        self.watched: set[str | None] = set()

    def reload(self, settings: QuotasSettings, owner: str | None) -> None:
        """From now on; nobody's bucket changes."""
        self._settings, self._owner = settings, owner
        self._known.clear()
        if owner is not None and owner not in self._full:
            self.watched.discard(owner)

    def fill(self, customers: Collection[str]) -> None:
        """These hold all that they may: nothing more of theirs is stored."""
        self.watched -= self._full - {customer for customer in self._full if self._is_over(customer)}
        self._full = frozenset(customers)
        self.watched |= self._full

    def absent(self, seconds: float, now: float) -> None:
        """Nothing could be read for so long: what devices sent meanwhile waits at the broker, and comes at
        once. It is of that time, and no flood.
        """
        if now >= self._grace_until:
            self._grace_seconds = 0.0
        self._grace_seconds = min(MAX_ABSENCE_SECONDS, self._grace_seconds + seconds)
        self._grace_until = now + BURST_SECONDS + self._grace_seconds
        for bucket in self._buckets.values():
            bucket.add(seconds)

    def charge(self, used: Used, now: float) -> Excess | None:
        """After each read: takes what came. Where the partition is its customer's own and it sends too much,
        for how long it is not read: an excess that tells it.
        """
        slowed = None
        for customer, (messages, size) in used.items():
            bucket, quota = self._bucket(customer, now), self.of(customer)
            behind = bucket.charge(quota, messages, size)
            if not behind:
                continue
            bucket.over_at = now
            if customer is not None and customer == self._owner:
                kind = QuotaKind.MESSAGES if bucket.messages < bucket.bytes else QuotaKind.BYTES
                slowed = Excess(
                    customer=customer, kind=kind, allowed=quota.allowed(kind), slowed_seconds=behind
                )
            else:
                self.watched.add(customer)
        return slowed

    def add(self, customer: str | None, messages: int, now: float) -> None:
        """Charges one that is watched for what a message that was taken turned out to hold."""
        self._bucket(customer, now).charge(self.of(customer), messages, 0)

    def refusal(self, customer: str | None, size: int, now: float, count: int = 1) -> QuotaKind | None:
        """Of one that is watched: the quota that this message is over; None where it is taken, and charged as
        `count`.
        """
        if customer in self._full:
            return QuotaKind.STORED
        bucket = self._bucket(customer, now)
        kind = bucket.refusal(self.of(customer), size, count)
        if kind is not None:
            bucket.over_at = now
        elif now - bucket.over_at > BURST_SECONDS:
            self.watched.discard(customer)
        return kind

    def takes_dead_letter(self, customer: str | None, topic: str, size: int, now: float) -> bool:
        """Whether a message that cannot be decoded becomes a dead letter as of right: as many bytes a second
        as may be sent, and not so many at once, for each is written whole.
        """
        taken = len(topic) + size + LETTER_OVERHEAD_BYTES
        return self._bucket(customer, now).takes_dead_letter(self.of(customer), taken)

    def keeps(self, customer: str | None, topic: str, size: int, now: float) -> bool:
        """Whether a message over quota has room among the dead letters. Where not it is dropped."""
        taken = len(topic) + size + LETTER_OVERHEAD_BYTES
        return self._bucket(customer, now).keeps(taken, self._settings.over_quota_bytes)

    def of(self, customer: str | None) -> Quota:
        """The quota of a customer; of what is nobody's the default."""
        quota = self._known.get(customer)
        if quota is None:
            if len(self._known) >= MAX_BUCKETS:
                self._known.clear()
            quota = self._known[customer] = self._settings.of(customer)
        return quota

    def _is_over(self, customer: str) -> bool:
        bucket = self._buckets.get(customer)
        return bucket is not None and (bucket.messages <= 0 or bucket.bytes <= 0)

    def _bucket(self, customer: str | None, now: float) -> Bucket:
        grace = self._grace_seconds if now < self._grace_until else 0.0
        bucket = self._buckets.get(customer)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:  # a customer that is not watched begins with a full one
                self._buckets = {one: self._buckets[one] for one in self.watched if one in self._buckets}
            bucket = self._buckets[customer] = Bucket(now, grace)
        else:
            bucket.refill(now, grace)
        return bucket
