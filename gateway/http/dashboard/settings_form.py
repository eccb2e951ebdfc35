"""The form for a system's settings, made from their JSON Schema: an input where a value is one word, JSON
where it is more. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from gateway.http.dashboard.credential_form import Schema, label_of, resolved

MAX_LENGTH = 65_536

Kind = Literal["text", "number", "choice", "switch", "lines", "json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingField:
    """One input. `is_further`: it has a default that most leave as it is. `value`: what the input shows."""

    name: str
    label: str
    kind: Kind
    hint: str
    is_required: bool
    is_further: bool
    choices: tuple[str, ...] = ()
    default: object = None
    value: str = ""
    minimum: float | None = None
    maximum: float | None = None


def setting_fields(
    schema: Schema,
    held: Mapping[str, object],
    *,
    without: Sequence[str] = (),
    typed: Mapping[str, str] | None = None,
) -> tuple[SettingField, ...]:
    """The inputs, those that must be filled in first. `held`: what is set; `without`: what may not be;
    `typed`: what was typed, which is shown again. Files of the gateway's machine are no settings of a form.
    """
    required = frozenset(schema.get("required", ()))
    fields = [
        _field(schema, name, part, name in required, held, typed)
        for name, part in schema.get("properties", {}).items()
        if name not in without and not name.endswith("_file")
    ]
    return tuple(sorted(fields, key=lambda field: (field.is_further, not field.is_required)))


def setting_values(
    fields: Sequence[SettingField], given: Mapping[str, str]
) -> tuple[dict[str, object], dict[str, str]]:
    """What was filled in and is not the default, and what is wrong, by the name of the field."""
    values: dict[str, object] = {}
    faults: dict[str, str] = {}
    for field in fields:
        text = given.get(field.name, "").replace("\r\n", "\n")
        text = text if _keeps_spaces(field) else text.strip()
        if len(text) > MAX_LENGTH:
            faults[field.name] = "This is too long."
        elif field.kind == "switch":
            if (text == "on") != bool(field.default):
                values[field.name] = text == "on"
        elif not text:
            if field.is_required:
                faults[field.name] = "Please fill this in."
            elif field.default is not None and field.kind != "choice" and field.default not in ("", {}, []):
                values[field.name] = None if field.kind != "json" else field.default
        else:
            value, fault = _value(field, text)
            if fault:
                faults[field.name] = fault
            elif value != field.default:
                values[field.name] = value
    return values, faults


def _keeps_spaces(field: SettingField) -> bool:
    """Where the default has one at its end, it means something: `Bearer `."""
    return isinstance(field.default, str) and field.default != field.default.strip()


def _value(field: SettingField, text: str) -> tuple[object, str]:
    match field.kind:
        case "number":
            try:
                number = float(text)
            except ValueError:
                return None, "This is not a number."
            return int(number) if number.is_integer() and abs(number) < 2**53 else number, ""
        case "json":
            try:
                return orjson.loads(text), ""
            except orjson.JSONDecodeError as error:
                return None, f"This is not JSON: {error.msg}, line {error.lineno}."
        case "choice" if text not in field.choices:
            return None, f"Choose one of {', '.join(field.choices)}."
        case _:
            return text, ""


def _field(
    root: Schema,
    name: str,
    part: Schema,
    is_required: bool,
    held: Mapping[str, object],
    typed: Mapping[str, str] | None,
) -> SettingField:
    shape = _shape(root, part)
    default = part.get("default")
    kind = _kind(name, shape)
    value = typed.get(name, "") if typed is not None else _shown(kind, held.get(name, default))
    return SettingField(
        name=name,
        label=label_of(name),
        kind=kind,
        hint=str(part.get("description", shape.get("description", ""))),
        is_required=is_required,
        is_further=not is_required
        and name not in held
        and name not in ("base_url", "probe_path", "organization_id"),
        choices=tuple(str(choice) for choice in shape.get("enum", ())),
        default=default,
        value=value,
        minimum=shape.get("minimum"),
        maximum=shape.get("maximum"),
    )


def _shape(root: Schema, part: Schema) -> Schema:
    """Of what may be null, the other."""
    part = resolved(root, part)
    choices = [choice for choice in part.get("anyOf", ()) if choice.get("type") != "null"]
    return resolved(root, choices[0]) if len(choices) == 1 else part


def _kind(name: str, shape: Schema) -> Kind:
    if "enum" in shape:
        return "choice"
    match shape.get("type"):
        case "boolean":
            return "switch"
        case "integer" | "number":
            return "number"
        case "string":
            return "lines" if name.endswith("_pem") else "text"
        case _:
            return "json"


def _shown(kind: Kind, value: Any) -> str:
    if value is None:
        return ""
    match kind:
        case "switch":
            return "on" if value else ""
        case "json":
            return "" if value in ({}, [], ()) else orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
        case _:
            return str(value)
