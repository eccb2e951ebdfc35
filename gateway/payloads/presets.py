"""Presets: published shapes by their name. Each is a YAML file of this package, as a
person would write it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import yaml
from pydantic import Field, JsonValue

from gateway.model.subscriptions import matches
from gateway.settings_base import Section
from gateway.source_settings import SourceSettings

_FOLDER = "preset_files"


class SimulatedMessage(Section):
    """A message of a simulated device, and what is to become of it. Texts hold `{signal}`s of the machine
    (`gateway.demo.preset_fleet`); one that is nothing else stands for the signal's value. `expect`: the
    metrics of its one sample, none where it is no telemetry; `at`: its time, None where it sends none.
    """

    topic: str
    payload: JsonValue
    retained: bool = False
    device: str = "{device}"
    at: str | None = None
    expect: dict[str, bool | int | float | str] = Field({})
    skipped: tuple[str, ...] = ()


class SimulatedKind(Section):
    """Devices of one kind. `names` are given out in turn, with numbers where there are more devices. `first`:
    what is told on each connection, once a topic; `each`: in turn; `last`: at the end, as by a last will.
    """

    names: tuple[str, ...] = Field(min_length=1)
    first: tuple[SimulatedMessage, ...] = ()
    each: tuple[SimulatedMessage, ...] = Field(min_length=1)
    last: tuple[SimulatedMessage, ...] = ()

    @property
    def is_single(self) -> bool:
        """Whether more of them could not be told apart by their topics."""
        return not any("{device}" in message.topic for message in self.each)


class Preset(Section):
    """`title` and `about` for people; `source`: where the shape is documented; `sources`: what it stands for,
    each with examples. `needs_zone`: its devices send local times, and only the user knows whose. `beside`:
    filters for what the same devices tell that is no telemetry: it is not subscribed. `simulate`: a small
    fleet. `asked_by`: a filter by which such a fleet is asked to tell again what it tells first.
    """

    title: str
    about: str
    source: str
    needs_zone: bool = False
    sources: tuple[SourceSettings, ...] = Field(min_length=1)
    beside: tuple[str, ...] = ()
    simulate: tuple[SimulatedKind, ...] = Field(min_length=1)
    asked_by: str | None = None

    def is_beside(self, topic: str, prefix: str) -> bool:
        """Whether such a device tells something there that is no telemetry."""
        own = topic.removeprefix(prefix)
        return topic.startswith(prefix) and any(matches(own, pattern) for pattern in self.beside)


@cache
def names() -> Sequence[str]:
    """Of all presets, sorted."""
    folder = files(__package__).joinpath(_FOLDER)
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def text_of(name: str) -> str:
    """The YAML of a preset that exists."""
    return files(__package__).joinpath(_FOLDER, f"{name}.yaml").read_text("utf-8")


@cache
def find_preset(name: str) -> Preset | None:
    """The preset, None where there is none of that name."""
    return Preset.model_validate(yaml.safe_load(text_of(name))) if name in names() else None
