"""Sources as the configuration has them, compiled: presets replaced by what they stand for, paths and globs
checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import jmespath
import jmespath.exceptions

from gateway.model.topics import Source, TemplateError, compile_source
from gateway.payloads.fields import FieldRules, compile_globs
from gateway.payloads.paths import Path, PathError, compile_path
from gateway.payloads.presets import Preset, find_preset
from gateway.payloads.shape import Shape
from gateway.payloads.times import TimeRule
from gateway.settings_base import Section
from gateway.source_settings import PathSettings, SourceExample, SourceRules, SourceSettings


class SourceError(ValueError):
    """A source that cannot be used: `key` is what of it, the text says why and what to write instead."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledSource:
    """A topic template and what is taken from its messages. `is_plain`: nothing but the topic and the format
    is said, so that the fast way takes it first. `place`: of the source in the configuration.
    `has_stable_aliases`: somebody answers for it that the nodes of Sparkplug never give an alias another
    name.
    """

    source: Source
    shape: Shape
    place: int
    is_plain: bool
    is_strict: bool
    has_stable_aliases: bool
    retained: str
    preset: str | None
    silent_after: timedelta | None
    examples: tuple[SourceExample, ...]


def compile_sources(settings: Sequence[SourceSettings]) -> tuple[CompiledSource, ...]:
    """All of them, in their order; a preset may be several. Raises SourceError."""
    return tuple(compiled for place, source in enumerate(settings) for compiled in compile_one(source, place))


def compile_one(settings: SourceSettings, place: int = 0) -> tuple[CompiledSource, ...]:
    """What one source of the configuration stands for. Raises SourceError."""
    if settings.preset is None:
        assert settings.topic is not None
        return (_compiled(settings, settings.topic, place, None),)
    preset = find_preset(settings.preset)
    if preset is None:
        raise SourceError(
            "preset",
            f"there is no preset {settings.preset!r}; `fieldgate sources presets` lists them",
        )
    return tuple(
        _compiled(rules, settings.prefix + topic, place, settings.preset)
        for topic, rules in _of_preset(preset, settings)
    )


def _of_preset(preset: Preset, settings: SourceSettings) -> list[tuple[str, SourceRules]]:
    """What is set beside the name replaces what the preset says. Globs that leave out are added to its own,
    and of a time only what is set.
    """
    given = _set(settings)
    own = given.pop("examples", None)
    found = []
    for place, source in enumerate(preset.sources):
        rules = _set(source)
        merged = {**rules, **given}
        if own is not None:  # once, whichever of the preset's sources takes their topics
            merged["examples"] = own if place == 0 else ()
        for key in ("drop", "ignore"):
            if key in given:
                merged[key] = (*rules.get(key, ()), *given[key])
        if "time" in rules and "time" in given:
            merged["time"] = rules["time"].model_copy(update=_set(given["time"]))
        if preset.needs_zone and (merged.get("time") is None or merged["time"].zone is None):
            raise SourceError(
                "preset",
                f"devices of {preset.title} send local times without a zone: set `time: {{zone:"
                " Europe/Berlin}`, or theirs",
            )
        assert source.topic is not None
        found.append((source.topic, SourceRules(**merged)))
    return found


def _set(section: Section) -> dict[str, Any]:
    """What a person has set, by key."""
    known = SourceRules.model_fields if isinstance(section, SourceRules) else type(section).model_fields
    return {key: getattr(section, key) for key in section.model_fields_set & known.keys()}


def _compiled(rules: SourceRules, topic: str, place: int, preset: str | None) -> CompiledSource:
    from_payload = [name for name in ("customer", "device") if isinstance(getattr(rules, name), PathSettings)]
    if rules.format == "sparkplug_b":
        _check_sparkplug(rules)
        from_payload.append("device")
    elif rules.aliases != "by_birth":
        raise SourceError("aliases", "only a source of `format: sparkplug_b` has aliases")
    try:
        source = compile_source(
            topic,
            rules.format,
            customer=rules.customer if isinstance(rules.customer, str) else None,
            device=rules.device if isinstance(rules.device, str) else None,
            from_payload=from_payload,
            ignored=rules.ignore,
        )
    except TemplateError as error:
        raise SourceError("topic" if preset is None else "preset", str(error)) from error
    shape = _shape(rules)
    return CompiledSource(
        source=source,
        shape=shape,
        place=place,
        is_plain=shape == Shape(format=rules.format) and rules.format in ("json", "scalar"),
        is_strict=rules.strict,
        has_stable_aliases=rules.aliases == "stable",
        retained=rules.retained,
        preset=preset,
        silent_after=rules.silent_after,
        examples=rules.examples,
    )


_OF_DOCUMENTS = ("device", "encoding", "root", "each", "name", "value", "time", "good", "reshape")


def _check_sparkplug(rules: SourceRules) -> None:
    """Raises SourceError for what the format says itself."""
    for key in _OF_DOCUMENTS:
        if getattr(rules, key) is not None:
            raise SourceError(key, f"{key}: Sparkplug B says itself what this is; take it out")
    if isinstance(rules.customer, PathSettings):
        raise SourceError(
            "customer", "a payload of Sparkplug names no customer: put an id, or {customer} into the topic"
        )


def _shape(rules: SourceRules) -> Shape:
    time = rules.time
    time_rule = TimeRule()
    if time is not None:
        zone = None if time.zone is None else ZoneInfo(time.zone)
        time_rule = TimeRule(unit=time.unit, zone=zone, is_required=time.missing == "refuse")
    return Shape(
        format=rules.format,
        encoding=rules.encoding,
        reshape=_expression(rules.reshape),
        root=_path("root", rules.root),
        each=_path("each", rules.each),
        name=_path("name.path", rules.name),
        value=_path("value.path", rules.value),
        time_path=None if time is None else _path("time.path", time),
        time=time_rule,
        good=None if rules.good is None else (_needed("good.path", rules.good), rules.good.equals),
        customer=_path("customer.path", rules.customer) if isinstance(rules.customer, PathSettings) else None,
        device=_path("device.path", rules.device) if isinstance(rules.device, PathSettings) else None,
        fields=FieldRules(
            keep=compile_globs(rules.keep),
            drop=compile_globs(rules.drop),
            rename=dict(rules.rename),
            text=rules.text,
            decimal=rules.decimal,
            units=rules.units,
            words=dict(rules.words),
            arrays=rules.arrays,
        ),
    )


def _needed(key: str, setting: PathSettings) -> Path:
    try:
        return compile_path(setting.path)
    except PathError as error:
        raise SourceError(key, str(error)) from error


def _path(key: str, text: str | PathSettings | None) -> Path | None:
    if text is None:
        return None
    return _needed(key, text if isinstance(text, PathSettings) else PathSettings(path=text))


def _expression(text: str | None) -> jmespath.parser.ParsedResult | None:
    if text is None:
        return None
    try:
        return jmespath.compile(text)
    except jmespath.exceptions.JMESPathError as error:
        raise SourceError("reshape", f"not JMESPath: {error}"[:300].replace("\n", " ")) from error


def only(compiled: Sequence[CompiledSource]) -> tuple[Source, ...]:
    """Their topic templates."""
    return tuple(one.source for one in compiled)
