"""The form for a system's credentials, made from the JSON Schema of its credentials model. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gateway.configuration import Faults
from gateway.model.errors import RequestRefused

MAX_LENGTH = 16_384
_PLAIN = re.compile(
    r"(^|_)(user|username|login|client_id|key_id|account|tenant|organization|organization_id|url|scope"
    r"|client_authentication)(_|$)"
)
_PEM = re.compile(r"\bpem\b|certificate|private_key", re.IGNORECASE)

Schema = Mapping[str, Any]  # JSON Schema is JSON


class FieldFault(RequestRefused):
    """What was filled in cannot be sent; `fields` says why, by the name of the field. Nothing was sent."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        said = "; ".join(f"{label_of(name)}: {text}" if name else text for name, text in fields.items())
        super().__init__("request.invalid", said)
        self.fields = dict(fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One input."""

    name: str
    label: str
    kind: Literal["password", "text", "textarea"]
    is_required: bool
    hint: str
    min_length: int = 0


def form_fields(schema: Schema, credential_type: str) -> tuple[Field, ...]:
    """The inputs for credentials of this type, in the order of the model; none where none are needed."""
    if credential_type == "none":
        return ()
    chosen = _variant(schema, schema, credential_type)
    required = frozenset(chosen.get("required", ()))
    return tuple(
        _field(name, resolved(schema, part), name in required)
        for name, part in chosen.get("properties", {}).items()
        if name != "type"
    )


def form_values(fields: tuple[Field, ...], given: Mapping[str, str]) -> dict[str, str]:
    """What was filled in. Raises FieldFault, which never holds a value."""
    values: dict[str, str] = {}
    faults: dict[str, str] = {}
    for field in fields:
        value = given.get(field.name, "").replace("\r\n", "\n")
        value = value.strip() if field.kind != "password" else value
        if len(value) > MAX_LENGTH:
            faults[field.name] = "This is too long."
        elif value and len(value) < field.min_length:
            faults[field.name] = f"This needs at least {field.min_length} characters."
        elif value:
            values[field.name] = value
        elif field.is_required:
            faults[field.name] = "Please fill this in."
    if not values and not faults:
        faults[fields[0].name if fields else ""] = "Please fill in the credentials."
    if faults:
        raise FieldFault(faults)
    return values


def faults_by_field(error: RequestRefused, part: str) -> dict[str, str]:
    """What a check says of each field of `settings` or `credentials`; under the empty name, what is of no
    field.
    """
    if isinstance(error, FieldFault):
        return error.fields
    if not isinstance(error.__cause__, Faults):
        name, colon, said = str(error).removeprefix(f"{part}.").partition(": ")
        return {name: sentence(said)} if colon and str(error).startswith(f"{part}.") else {"": str(error)}
    found: dict[str, str] = {}
    for fault in error.__cause__.faults:
        inside = [str(key) for key in fault.path[1:]] if fault.path[:1] == (part,) else []
        where = ".".join(inside[1:])
        said = f"{where}: {fault.message}" if where else fault.message
        found.setdefault(inside[0] if inside else "", sentence(said))
    return found


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _variant(root: Schema, schema: Schema, credential_type: str) -> Schema:
    """Of a model that is a choice, the one of this type; else the first."""
    schema = resolved(root, schema)
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
    return "properties" in resolved(root, schema) or "oneOf" in resolved(root, schema)


def resolved(root: Schema, schema: Schema) -> Schema:
    """The part that a reference means."""
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
    return Field(
        name=name,
        label=label_of(name),
        kind=kind,
        is_required=is_required,
        hint=hint,
        min_length=schema.get("minLength", 0),
    )


def label_of(name: str) -> str:
    """A key as a person reads it."""
    label = " ".join(_CAPITALS.get(word, word) for word in name.replace("_", " ").split())
    return label[:1].upper() + label[1:]


_CAPITALS = {
    "api": "API",
    "id": "ID",
    "url": "URL",
    "dsn": "DSN",
    "ca": "CA",
    "hmac": "HMAC",
    "pem": "(PEM)",
    "json": "JSON",
    "sap": "SAP",
}
