"""When a device is silent: by how long somebody has listened to it since its last message. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.model.topics import Source, partition_of

LEARNED = 4
"""Intervals that have to be seen before they count."""

FACTOR = 3
"""A device is silent after so many of its intervals."""

UNLEARNED = timedelta(days=1)
"""After this a device is silent of which it is not known how often it sends."""

NOT_HEARD = timedelta(seconds=30)
"""A partition of which nothing newer than this is known is not listened to, or is behind."""

SOON, LATER = timedelta(seconds=1), timedelta(minutes=5)
"""When a device is looked at again at the earliest; the second, where nobody listens to it."""

OFTEN = timedelta(minutes=15)
"""When it is looked at again at the latest, or after its source's `silent_after`, if that is more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """Up to when all is known of what came for a partition, and how many seconds in all nothing was read
    there, the last time from `broke_at` to `resumed_at`.
    """

    until: datetime
    unheard: float
    broke_at: datetime
    resumed_at: datetime

    def since(self, device: Watched) -> timedelta:
        """How long it was listened to since the device's last message. What came while it is being found that
        nobody listened (a database that was away) does not know of that yet.
        """
        if device.last_seen_at > self.broke_at:
            return self.until - max(device.last_seen_at, self.resumed_at)
        return self.until - device.last_seen_at - timedelta(seconds=self.unheard - device.unheard)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A device whose silence is to be looked at. `unheard`: its partition's, at the last message. `interval`:
    seconds between two messages, made of `intervals`; None: not learned. `is_watched` False: nothing of its
    source, or of its customer, was taken when it was looked at last. `watched_at`: when it was again.
    `refused_until`: up to when not all that its customer sent was taken, for that was over a quota.
    """

    customer: str
    device: str
    title: str | None
    source: str | None
    first_seen_at: datetime
    last_seen_at: datetime
    unheard: float
    interval: float | None
    intervals: int
    is_watched: bool
    watched_at: datetime | None
    silent_since: datetime | None
    refused_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What is taken: sources by topic, with what each says of silence; customers (None: whoever sends)."""

    sources: Mapping[str, Source]
    silent_after: Mapping[str, timedelta]
    default_silent_after: timedelta
    customers: frozenset[str] | None
    partitions: int

    def takes(self, device: Watched) -> bool:
        """Whether messages of its source and its customer are taken."""
        is_known = device.source is None or device.source in self.sources
        return is_known and (self.customers is None or device.customer in self.customers)

    def partition(self, device: Watched) -> int:
        """Where its messages are read."""
        source = None if device.source is None else self.sources[device.source]
        if source is None or source.is_divided:
            return partition_of(device.customer, self.partitions)
        return partition_of(source.customer or source.topic, self.partitions)

    def least(self, device: Watched) -> timedelta:
        """How long its silence lasts at least, whatever is usual."""
        return self.silent_after.get(device.source or "", self.default_silent_after)

    def is_learned(self, device: Watched) -> bool:
        """Whether it is known how often it sends."""
        return device.intervals >= LEARNED and device.last_seen_at - device.first_seen_at >= self.least(
            device
        )

    def threshold(self, device: Watched) -> timedelta:
        """How long a device is listened to in vain before it is silent. What it sent in its first minutes
        says little of how often it sends.
        """
        least = self.least(device)
        if device.interval is None or not self.is_learned(device):
            return max(least, UNLEARNED)
        return max(least, timedelta(seconds=min(FACTOR * device.interval, 1e9)))


@dataclass(frozen=True, slots=True, kw_only=True)
class FallenSilent:
    """It is silent, after so long."""

    after: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardAgain:
    """It was silent, and has sent."""

    due_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """It is looked at again at `due_at`. `watched_at`: when its silence counts from anew, where it does."""

    due_at: datetime
    is_watched: bool = True
    watched_at: datetime | None = None


Verdict = FallenSilent | HeardAgain | Waiting


def judged(device: Watched, sources: Sources, heard: Mapping[int, Heard], now: datetime) -> Verdict:
    """What has become of a device that is due.

    Silence is counted by the clock of the partition where its messages are read, which stands still while
    nobody reads them. A device whose source or customer is not taken is neither silent nor does it return;
    its silence counts anew when it is taken again. So does that of a customer's devices when it is over a
    quota no more: what they sent meanwhile may be among what was refused.
    """
    if device.silent_since is not None and device.last_seen_at > device.silent_since:
        return HeardAgain(due_at=now)
    if not sources.takes(device):
        return Waiting(due_at=now + LATER, is_watched=False)
    threshold, clock = sources.threshold(device), heard.get(sources.partition(device))
    if clock is None:
        return Waiting(due_at=now + LATER)
    if not device.is_watched:
        return Waiting(due_at=now + sources.least(device), watched_at=clock.until)
    listened = clock.since(device)
    for since in (device.watched_at, device.refused_until):
        if since is not None:
            listened = min(listened, clock.until - since)
    if listened >= threshold:
        return FallenSilent(after=threshold)
    is_behind = now - clock.until > NOT_HEARD
    # what is usual is known by then, or may be less: a device that is due in days is looked at before
    often = OFTEN if sources.is_learned(device) else SOON
    wait = min(threshold - listened, max(sources.least(device), often))
    return Waiting(due_at=now + max(wait, LATER if is_behind else SOON))
