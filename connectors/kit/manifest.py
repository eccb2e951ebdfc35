"""Reads a connector's `manifest.toml` into the model's Manifest. Strict: an unknown key or a wrong type ends
the start.
"""

from __future__ import annotations

import tomllib
from datetime import timedelta
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import Field, ValidationError

from connectors.kit.settings import Block
from gateway.model.connector import (
    Auth,
    Capabilities,
    Dedup,
    Hosting,
    Manifest,
    Order,
    Push,
    ReadBack,
)
from gateway.model.errors import ConfigError
from gateway.model.inbound import Deletions, InboundStream, RecordCursor


class _Capabilities(Block):
    push: Push
    max_items: int = Field(ge=1)
    max_bytes: int | None = Field(None, ge=1)
    order: Order = "any"
    resolution_seconds: float = Field(gt=0)
    max_backfill_seconds: float | None = Field(None, gt=0)
    future_skew_seconds: float = Field(0.0, ge=0)
    dedup: Dedup
    readback: ReadBack
    can_create_meter: bool = False
    can_raise_event: bool = False
    values: frozenset[Literal["number", "boolean", "text"]] = Field(min_length=1)
    auth: tuple[Auth, ...] = Field(min_length=1)

    def build(self) -> Capabilities:
        return Capabilities(
            push=self.push,
            max_items=self.max_items,
            max_bytes=self.max_bytes,
            order=self.order,
            resolution=timedelta(seconds=self.resolution_seconds),
            max_backfill=None
            if self.max_backfill_seconds is None
            else timedelta(seconds=self.max_backfill_seconds),
            future_skew=timedelta(seconds=self.future_skew_seconds),
            dedup=self.dedup,
            readback=self.readback,
            can_create_meter=self.can_create_meter,
            can_raise_event=self.can_raise_event,
            values=self.values,
            auth=self.auth,
        )


class _Stream(Block):
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    title: str = Field(min_length=1)
    cursor: RecordCursor
    key: tuple[str, ...] = Field(min_length=1)
    lookback_seconds: float = Field(0.0, ge=0)
    settle_seconds: float = Field(0.0, ge=0)
    page: int = Field(100, ge=1)
    deletions: Deletions = "none"
    default: bool = False
    lists_open: bool = False
    example: dict[str, object]

    def build(self) -> InboundStream:
        return InboundStream(
            name=self.name,
            title=self.title,
            cursor=self.cursor,
            key=self.key,
            lookback=timedelta(seconds=self.lookback_seconds),
            settle=timedelta(seconds=self.settle_seconds),
            page=self.page,
            deletions=self.deletions,
            default=self.default,
            lists_open=self.lists_open,
            example=self.example,
        )


class _Raised(Block):
    kind: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    stream: str | None = None


class _Manifest(Block):
    system: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str = Field(min_length=1)
    tier: Literal[1, 2, 3]
    hosting: tuple[Hosting, ...] = Field(min_length=1)
    reauthorization: str = Field(min_length=1)
    capabilities: _Capabilities
    streams: tuple[_Stream, ...] = ()
    raises: tuple[_Raised, ...] = ()


@cache
def load_manifest(package: str) -> Manifest:
    """The manifest beside a connector's code; `package` is its import name. Raises ConfigError."""
    return parse_manifest(
        files(package).joinpath("manifest.toml").read_text("utf-8"), source=f"{package}/manifest.toml"
    )


def parse_manifest(text: str, *, source: str) -> Manifest:
    """The manifest in `text`; `source` names it in a ConfigError."""
    try:
        read = _Manifest.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigError(f"{source}: {error}") from error
    return Manifest(
        system=read.system,
        title=read.title,
        tier=read.tier,
        hosting=read.hosting,
        capabilities=read.capabilities.build(),
        streams=tuple(stream.build() for stream in read.streams),
        raises={raised.kind: raised.stream for raised in read.raises},
        reauthorization=read.reauthorization.strip(),
    )
