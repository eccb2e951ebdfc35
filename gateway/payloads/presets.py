"""Presets: published shapes by their name. Each is a YAML file of this package, as a
person would write it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import yaml
from pydantic import Field

from gateway.settings_base import Section
from gateway.source_settings import SourceSettings

_FOLDER = "preset_files"


class Preset(Section):
    """`title` and `about` for people; `source`: where the shape is documented; `sources`: what it stands for,
    each with examples. `needs_zone`: its devices send local times, and only the user knows whose.
    """

    title: str
    about: str
    source: str
    needs_zone: bool = False
    sources: tuple[SourceSettings, ...] = Field(min_length=1)


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
