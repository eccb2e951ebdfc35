"""The shape of the settings: which keys a path may have, and what Pydantic's complaints mean to a person."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gateway.configuration.document import LocatedDocument
from gateway.configuration.fault import ConfigurationFault, KeyPath, did_you_mean

_QUOTE_HINT = "put it in quotes"
MAX_TOLD = 100
"""Faults of one part: for each the name that was meant is looked for, and nobody reads more."""


def type_at(root: type[BaseModel], path: KeyPath) -> object | None:
    """The annotation at a path, without Optional and Annotated; None where there can be nothing."""
    current: object = root
    for key in path:
        inner = _below(current, key)
        if inner is None:
            return None
        current = inner
    return current


def keys_of(annotation: object) -> dict[str, object]:
    """The keys that a model takes, with their annotations; none for anything else."""
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return {}
    return {field.alias or name: field.annotation for name, field in annotation.model_fields.items()}


def is_collection(annotation: object) -> bool:
    """Whether a value of this type is written as a list or a mapping."""
    return get_origin(annotation) in (tuple, list, dict) or bool(keys_of(annotation))


def faults_of(
    error: ValidationError, root: type[BaseModel], document: LocatedDocument, base: KeyPath = ()
) -> list[ConfigurationFault]:
    """One fault for each complaint, where it is written, in words that say what to do; `base` is where `root`
    stands.
    """
    faults: dict[tuple[KeyPath, str], ConfigurationFault] = {}
    complaints = error.errors(include_url=False, include_input=False)
    for complaint in complaints[:MAX_TOLD]:
        inside = tuple(key for key in complaint["loc"] if key != "[key]")
        path = (*base, *inside)
        message = _message(complaint, root, inside)
        faults[path, message] = ConfigurationFault(place=document.place(path), path=path, message=message)
    untold = [] if len(complaints) <= MAX_TOLD else [_more(len(complaints) - MAX_TOLD, document, base)]
    return [*faults.values(), *untold]


def _more(count: int, document: LocatedDocument, base: KeyPath) -> ConfigurationFault:
    return ConfigurationFault(place=document.place(base), path=base, message=f"has {count:,} more faults")


def _below(annotation: object, key: str | int) -> object | None:
    fields = keys_of(annotation)
    if fields:
        return _bare(fields[str(key)]) if key in fields else None
    arguments = get_args(annotation)
    match get_origin(annotation):
        case origin if origin in (tuple, list):
            return _bare(arguments[0])
        case origin if origin in (dict, Mapping):
            return _bare(arguments[1])
        case _:
            return None


def _bare(annotation: object) -> object:
    while True:
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            annotation = arguments[0]
        elif origin in (Union, UnionType) and (
            some := [inner for inner in arguments if inner is not NoneType]
        ):
            annotation = some[0]
        else:
            return annotation


def _message(complaint: ErrorDetails, root: type[BaseModel], path: KeyPath) -> str:
    text = complaint["msg"].removeprefix("Value error, ")
    match complaint["type"]:
        case "extra_forbidden":
            return _unknown(root, path)
        case "missing":
            return "is missing; it has no default"
        case "string_type":
            return f"must be text; {_QUOTE_HINT}"
        case "string_pattern_mismatch":
            return (
                "must be a letter or digit, then at most 63 letters, digits, dots, dashes or underscores"
                if "A-Za-z0-9._-" in text
                else text
            )
        case "model_type" | "model_attributes_type":
            return "must be a mapping of keys to values"
        case "tuple_type" | "list_type":
            return "must be a list"
        case "value_error":
            return text  # our own sentence: one that begins with a unit's name would name another
        case _:
            return text[:1].lower() + text[1:]


def _unknown(root: type[BaseModel], path: KeyPath) -> str:
    word, siblings = str(path[-1]), keys_of(type_at(root, path[:-1]))
    elsewhere = [
        name
        for name, annotation in keys_of(root).items()
        if word in keys_of(_bare(annotation)) and (name,) != path[:-1]
    ]
    if elsewhere and word not in siblings:
        return f"unknown key; {word!r} belongs under {elsewhere[0]!r}"
    return f"unknown key{did_you_mean(word, siblings)}"
