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
    """Charges customers for what they send, and says which messages are over a quota. `owner`: the customer
    that has the partition alone. Nothing of its messages is refused; its reading is paused instead.

    `watched` has the customers that were over a quota lately. Each of their messages is checked by `refusal`
    before it is taken. All others are charged once for each read, which costs less.
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

    def set_full(self, customers: Collection[str]) -> None:
        """These have stored as many bytes as they may: nothing more of theirs is stored. Every message of a
        full customer is checked; one that is full no more is still checked while it is over one of its rates.
        """
        self.watched -= {customer for customer in self._full if not self._is_over(customer)}
        self._full = frozenset(customers)
        self.watched |= self._full

    def grant_grace(self, seconds: float, now: float) -> None:
        """Nothing could be read for so many seconds. What devices sent meanwhile waits at the broker and
        comes at once: it is charged to that time, and counts as no flood.
        """
        if now >= self._grace_until:
            self._grace_seconds = 0.0
        self._grace_seconds = min(MAX_ABSENCE_SECONDS, self._grace_seconds + seconds)
        self._grace_until = now + BURST_SECONDS + self._grace_seconds
        for bucket in self._buckets.values():
            bucket.add(seconds)

    def charge(self, used: Used, now: float) -> Excess | None:
        """Charges what one read brought. Returns an excess where the owner of the partition sent too much:
        its `slowed_seconds` is how long nothing more should be read.
        """
        slowed: Excess | None = None
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
        """Charges a watched customer for further samples that a message turned out to hold when it was
        decoded.
        """
        self._bucket(customer, now).charge(self.of(customer), messages, 0)

    def refusal(self, customer: str | None, size: int, now: float, count: int = 1) -> QuotaKind | None:
        """The quota that this message of a watched customer is over. None where the message is taken; it is
        charged then, as `count` messages.
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
        """Whether a message that cannot be decoded becomes a dead letter, whatever room there is: as many
        bytes a second as the customer may send, but fewer at once, for each is written whole.
        """
        taken = len(topic) + size + LETTER_OVERHEAD_BYTES
        return self._bucket(customer, now).takes_dead_letter(self.of(customer), taken)

    def takes_over_quota(self, customer: str | None, topic: str, size: int, now: float) -> bool:
        """Whether there is room for a message over quota among the dead letters. Takes the room where there
        is; without room the message is dropped.
        """
        taken = len(topic) + size + LETTER_OVERHEAD_BYTES
        return self._bucket(customer, now).takes_over_quota(taken, self._settings.over_quota_bytes)

    def of(self, customer: str | None) -> Quota:
        """The quota of a customer; the default for messages of no known customer (None)."""
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
            # Only buckets of watched customers matter: any other customer begins again with a full one.
            if len(self._buckets) >= MAX_BUCKETS:
                self._buckets = {one: self._buckets[one] for one in self.watched if one in self._buckets}
            bucket = self._buckets[customer] = Bucket(now, grace)
        else:
            bucket.refill(now, grace)
        return bucket
