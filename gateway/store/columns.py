"""Columns of JSON as they are read. What another version, or a person, wrote there may be of another kind: a
list shows such a row all the same, with something in the place of what cannot be shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.model.sample import Value


def scalar(value: object) -> Value:
    """A number, a text or a truth; words for what is none."""
    return value if isinstance(value, bool | int | float | str) else "(cannot be shown)"


def mapping(value: object) -> Mapping[str, object]:
    """An object; an empty one for what is none."""
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> Sequence[Mapping[str, object]]:
    """A list of objects; an empty one for what is none."""
    return [mapping(each) for each in value] if isinstance(value, list) else ()
