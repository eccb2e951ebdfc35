"""`telemetry.sources`: where devices publish, and where in their payloads things are. What each rule is for
is in docs/sources.md; `gateway.payloads.sources` makes of these settings the rules that payloads are read by.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from gateway import zones
from gateway.settings_base import CustomerId, Seconds, Section

Glob = Annotated[str, Field(min_length=1, max_length=256)]
Word = Annotated[str, Field(max_length=64)]
PathText = Annotated[str, Field(min_length=1, max_length=500)]


class PathSettings(Section):
    """A place in the payload."""

    path: PathText


class GoodSettings(PathSettings):
    """What stands at `path` when an item can be trusted; of the others nothing is taken."""

    equals: bool | int | float | str = True


class TimeSettings(PathSettings):
    """Where the device's time is, and how it is written. `zone` is of times that name none."""

    path: PathText = "ts"
    unit: Literal["auto", "s", "ms", "us", "ns", "iso"] = "auto"
    zone: str | None = None
    missing: Literal["receipt", "refuse"] = "receipt"

    @field_validator("zone")
    @classmethod
    def _is_known(cls, zone: str | None) -> str | None:
        if zone is not None and zones.zone(zone) is None:
            raise ValueError(f"{zone!r} is no time zone of the IANA database, such as Europe/Berlin")
        return zone


class ExpectedSample(Section):
    """A sample that an example gives. Without `at` its time is that of receipt."""

    device: str
    metrics: dict[str, bool | int | float | str]
    customer: str | None = None
    at: str | None = None


class SourceExample(Section):
    """A message as a device sends it, and what it is to become: `fieldgate check` runs it. `payload`: a text
    is the payload as it is, anything else is sent as JSON; `payload_hex` is for binary formats.
    """

    topic: str
    payload: JsonValue = None
    payload_hex: Annotated[str, Field(pattern=r"^([0-9a-fA-F]{2})*$")] | None = None
    retained: bool = False
    expect: tuple[ExpectedSample, ...] = ()
    skipped: tuple[str, ...] = ()


class SourceRules(Section):
    """What a source may say beside its topic."""

    # how a payload is written
    format: Literal["json", "scalar", "cbor", "msgpack", "sparkplug_b"] = "json"
    encoding: Literal["gzip", "deflate", "zstd"] | None = None
    # whose it is, where the topic does not say so
    customer: CustomerId | PathSettings | None = None
    device: Annotated[str, Field(min_length=1, max_length=256)] | PathSettings | None = None
    # where in it things are
    root: PathText | None = None
    each: PathText | None = None
    name: PathSettings | None = None
    value: PathSettings | None = None
    time: TimeSettings | None = None
    good: GoodSettings | None = None
    reshape: Annotated[str, Field(min_length=1, max_length=4000)] | None = None
    # which metrics are taken, and under which names
    keep: tuple[Glob, ...] = ()
    drop: tuple[Glob, ...] = ()
    rename: dict[str, Annotated[str, Field(min_length=1, max_length=256)]] = Field({})
    # what values stand for
    text: Literal["keep", "numbers"] = "keep"
    decimal: Literal["point", "comma"] = "point"
    units: Literal["keep", "strip"] = "keep"
    words: dict[Word, bool | int | float | str] = Field({})
    arrays: Literal["skip", "index"] = "skip"
    aliases: Literal["by_birth", "stable"] = "by_birth"
    # what of a message, of a device and of this source itself
    strict: bool = False
    retained: Literal["own_time", "take", "skip"] = "own_time"
    ignore: tuple[Glob, ...] = ()
    silent_after: Seconds | None = None
    examples: tuple[SourceExample, ...] = ()


class SourceSettings(SourceRules):
    """Where telemetry is published, by a topic template or by a preset.

    `topic`: literal levels and the fields `{customer}`, `{device}`, `{metric}`, `{_}` (any level), each a
    level or a part of one; `{device...}` and `{metric...}` take all levels that follow; one of Sparkplug is
    `spBv1.0/GROUP/#`. `preset`: a shape by its name; what is set beside it replaces what the preset says, and
    `prefix` stands before its topics.
    """

    topic: str | None = None
    preset: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")] | None = None
    prefix: Annotated[str, Field(max_length=200)] = ""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.topic is None) == (self.preset is None):
            raise ValueError("expected `topic`, or `preset`: exactly one of the two")
        if self.prefix and self.preset is None:
            raise ValueError("prefix: only before the topics of a preset; write it into `topic`")
        return self


DEFAULT_SOURCES = (
    SourceSettings(topic="{customer}/devices/{device}/telemetry", format="json"),
    SourceSettings(topic="{customer}/devices/{device}/telemetry/{metric}", format="scalar"),
)
