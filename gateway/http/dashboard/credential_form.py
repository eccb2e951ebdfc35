"""The form for a system's credentials, made from the JSON Schema of its credentials model. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gateway.model.errors import RequestRefused

MAX_LENGTH = 16_384
_PLAIN = re.compile(
    r"(^|_)(user|username|login|client_id|key_id|account|tenant|organization|organization_id|url|scope|client_authentication)(_|$)"
)
_PEM = re.compile(r"\bpem\b|certificate|private_key", re.IGNORECASE)

Schema = Mapping[str, Any]  # JSON Schema is JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One input."""

    name: str
    label: str
    kind: Literal["password", "text", "textarea"]
    is_required: bool
    hint: str


def form_fields(schema: Schema, credential_type: str) -> tuple[Field, ...]:
    """The inputs for credentials of this type, in the order of the model."""
    chosen = _variant(schema, schema, credential_type)
    required = frozenset(chosen.get("required", ()))
    return tuple(
        _field(name, _resolved(schema, part), name in required)
        for name, part in chosen.get("properties", {}).items()
        if name != "type"
    )


def form_values(fields: tuple[Field, ...], given: Mapping[str, str]) -> dict[str, str]:
    """What was filled in. Raises RequestRefused("request.invalid") that names what is missing, and never a
    value.
    """
    values: dict[str, str] = {}
    for field in fields:
        value = given.get(field.name, "").replace("\r\n", "\n")
        value = value.strip() if field.kind != "password" else value
        if len(value) > MAX_LENGTH:
            raise RequestRefused("request.invalid", f"{field.label}: this is too long.")
        if value:
            values[field.name] = value
        elif field.is_required:
            raise RequestRefused("request.invalid", f"{field.label}: please fill this in.")
    if not values:
        raise RequestRefused("request.invalid", "Please fill in the new credentials.")
    return values


def _variant(root: Schema, schema: Schema, credential_type: str) -> Schema:
    """Of a model that is a choice, the one of this type; else the first."""
    schema = _resolved(root, schema)
    choices = [
        _variant(root, choice, credential_type)
        for choice in schema.get("oneOf", schema.get("anyOf", ()))
        if _is_object(root, choice)
    ]
    return (
        next((choice for choice in choices if credential_type in _types(choice)), choices[0])
        if choices
        else schema
    )


def _types(schema: Schema) -> Iterator[str]:
    part = schema.get("properties", {}).get("type", {})
    yield from part.get("enum", ())
    if "const" in part:
        yield part["const"]


def _is_object(root: Schema, schema: Schema) -> bool:
    return "properties" in _resolved(root, schema) or "oneOf" in _resolved(root, schema)


def _resolved(root: Schema, schema: Schema) -> Schema:
    reference = schema.get("$ref")
    if not isinstance(reference, str):
        return schema
    found: Any = root
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return {**found, **{key: value for key, value in schema.items() if key != "$ref"}}


def _field(name: str, schema: Schema, is_required: bool) -> Field:
    hint = str(schema.get("description", ""))
    kind: Literal["password", "text", "textarea"] = "password"
    if _PEM.search(f"{name} {hint}") and "password" not in name and "passphrase" not in name:
        kind = "textarea"
    elif _PLAIN.search(name):
        kind = "text"
    label = name.replace("_", " ").strip()
    label = " ".join(
        {"api": "API", "id": "ID", "url": "URL", "dsn": "DSN", "ca": "CA", "hmac": "HMAC"}.get(word, word)
        for word in label.split()
    )
    return Field(
        name=name, label=label[:1].upper() + label[1:], kind=kind, is_required=is_required, hint=hint
    )
