"""The bodies of `/v1/devices`: which devices there are, what they send, and a metric over time."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from gateway.http.documents import Document


class DeviceDocument(Document):
    """A device that was seen. Times are null until something is written of it, some seconds after its first
    sample.
    """

    customer: str
    device: str
    title: str | None = Field(description="The name that its topic or payload gives it; null: its id.")
    source: str | None = Field(description="The topic template that it came by.")
    first_seen_at: datetime
    last_seen_at: datetime | None = Field(description="When its last message was received.")
    last_sample_at: datetime | None = Field(description="The latest time that its samples carry.")
    metrics: int = Field(description="How many are known.")
    interval_seconds: float | None = Field(
        description="What is usual between two messages; null: not known yet."
    )
    silent_since: datetime | None = Field(
        description="Its last message, where it is silent; null: it is not."
    )
    offline_since: datetime | None = Field(
        description=(
            "When its edge node said that it is dead, or died itself; null for what nobody says so of."
        )
    )


class FedMeterDocument(Document):
    """A meter that a metric feeds."""

    connection: str
    meter: str
    reduce: str
    unit: str | None


class DeviceMetricDocument(Document):
    """A metric with its last value. `kind`, `value` and `at` null: a meter names it, and it was not seen."""

    name: str
    kind: Literal["number", "boolean", "text"] | None
    value: float | int | bool | str | None = Field(description="Of a text the first 256 characters.")
    at: datetime | None
    meters: tuple[FedMeterDocument, ...]


class DeviceDetail(Document):
    """A device with all that is known of it."""

    device: DeviceDocument
    metrics: tuple[DeviceMetricDocument, ...]
    unmapped: tuple[str, ...] = Field(description="Metrics that come and feed no meter.")


class BucketDocument(Document):
    """Samples of one part of the time. True counts as 1 and false as 0; texts have no min, mean and max."""

    start: datetime
    samples: int
    min: float | None
    mean: float | None
    max: float | None
    last: float | int | bool | str


class SeriesDocument(Document):
    """A metric over time. Parts without samples are left out."""

    buckets: tuple[BucketDocument, ...]
    bucket_seconds: float
    complete: bool = Field(description="False: there were more samples than are read; the newest are here.")
