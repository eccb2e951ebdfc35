"""Customers that the settings say something of and that are not among `customers`: a slip of the pen, or one
that moves in later. Nothing is refused for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from gateway.configuration.document import LocatedDocument
from gateway.configuration.fault import ConfigurationFault, KeyPath, did_you_mean
from gateway.settings import Settings
from gateway.settings_base import NAMES_A_CUSTOMER


def unlisted(settings: Settings, document: LocatedDocument | None = None) -> list[ConfigurationFault]:
    """One for each place, with its line where the document is given; none where anybody may register."""
    if settings.telemetry.auto_register_customers:
        return []
    document = LocatedDocument("configuration") if document is None else document
    return [
        ConfigurationFault(
            place=document.place(path),
            path=path,
            message=f"{customer!r} is not among `customers`, so this counts for nobody unless that customer"
            f" is listed or moves in{did_you_mean(customer, settings.customers)}",
        )
        for path, customer in _named(Settings, settings, ())
        if customer not in settings.customers
    ]


def _named(annotation: Any, value: object, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Where values of the type CustomerId are, and what they say: keys of mappings too."""
    if NAMES_A_CUSTOMER in getattr(annotation, "__metadata__", ()) and isinstance(value, str):
        yield path, value
    elif isinstance(value, BaseModel):
        for name, hint in get_type_hints(type(value), include_extras=True).items():
            if name in type(value).model_fields:
                yield from _named(hint, getattr(value, name), (*path, name))
    elif get_origin(annotation) in (Union, UnionType):
        for one in get_args(annotation):
            yield from _named(one, value, path)
    elif isinstance(value, dict) and (types := get_args(annotation)):  # of a payload nobody knows any
        of_keys, of_values = types
        for key, one in value.items():
            yield from _named(of_keys, key, (*path, key))
            yield from _named(of_values, one, (*path, key))
    elif isinstance(value, tuple) and (items := get_args(annotation)):
        for index, one in enumerate(value):
            yield from _named(items[0], one, (*path, index))
