"""JSON Schemas of the two files, for editors: from the same models that check them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from gateway.configuration.load import SystemModels
from gateway.settings import ConnectionSettings, Settings
from gateway.settings_base import Section

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class ConnectionsFile(Section):
    """The declared connections."""

    connections: tuple[ConnectionSettings, ...] = ()


class _Generator(GenerateJsonSchema):
    """Durations in defaults as they are written; secrets as the references that they are."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if isinstance(default := schema.get("default"), timedelta):
            return {**self.generate_inner(schema["schema"]), "default": written(default)}
        return super().default_schema(schema)

    def encode_default(self, dft: object) -> object:
        if isinstance(dft, BaseModel):
            return _plain(dft)
        return super().encode_default(dft)


def main_schema() -> dict[str, object]:
    """Of `fieldgate.yaml`."""
    return {"$schema": _DIALECT, **Settings.model_json_schema(schema_generator=_Generator)}


def connections_schema(systems: Mapping[str, SystemModels]) -> dict[str, object]:
    """Of `connections.yaml`: what `settings` may hold depends on the system."""
    schema = {"$schema": _DIALECT, **ConnectionsFile.model_json_schema(schema_generator=_Generator)}
    definitions = schema["$defs"]
    cases: list[dict[str, object]] = []
    for name, system in sorted(systems.items()):
        settings = system.settings_model.model_json_schema(by_alias=True, schema_generator=_Generator)
        definitions.update(settings.pop("$defs", {}))
        cases.append(
            {
                "if": {"properties": {"system": {"const": name}}, "required": ["system"]},
                "then": {"properties": {"settings": settings}},
            }
        )
    connection = definitions["ConnectionSettings"]
    connection["properties"]["system"] = {"enum": sorted(systems), "type": "string"}
    connection["allOf"] = cases
    return schema


def written(duration: timedelta) -> str:
    """A duration as it is written in the file: `30s`, `15m`, `7d`."""
    seconds = duration.total_seconds()
    for size, unit in _UNITS:
        if seconds and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    whole, rest = divmod(duration // timedelta(microseconds=1), 1000)
    return f"{whole}.{rest:03d}".rstrip("0") + "ms" if rest else f"{whole}ms"


def meter_as_given(stored: Mapping[str, object]) -> dict[str, object]:
    """A stored rule as the file, or a request, has it: durations as `15m`, nothing in parts of parts."""
    arithmetic = stored.get("arithmetic")
    meter = {name: value for name, value in stored.items() if name != "arithmetic"}
    for name, value in arithmetic.items() if isinstance(arithmetic, dict) else ():
        if name != "conversion":
            meter[name] = value
        elif meter["reduce"] == "run_time":
            meter["to"] = value["to"]
        else:
            meter |= {"from": value["from"], "to": value["to"]}
    for name in ("every", "max_silence", "hold"):
        if isinstance(seconds := meter.get(name), int | float):
            meter[name] = written(timedelta(seconds=seconds))
    return meter


def _plain(model: BaseModel) -> dict[str, object]:
    """A default section, with what is not at its own default only: the section's own
    schema has the others.
    """
    return model.model_dump(mode="json", exclude_defaults=True)
