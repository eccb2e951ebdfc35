"""A small template of JSON: literals and `{placeholders}`, filled once. No expressions, no code, and what is
filled in is never looked at again. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

import orjson

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
_MAX_NODES, _MAX_DEPTH = 200, 8

Fill = Callable[[Mapping[str, object]], object]
"""Makes the JSON for the values of the placeholders."""


def placeholders(template: object) -> set[str]:
    """Those that stand in the template."""
    found: set[str] = set()
    _walk(template, found, depth=0)
    return found


def compiled(template: object, *, known: Collection[str]) -> Fill:
    """Raises ValueError for a placeholder that is not known, for what JSON has not, and for a template too
    large to be one.

    A text that is one placeholder becomes its value with its type; a member of an object whose value is None
    is left out. In a longer text values are written as text. `{{` and `}}` are braces.
    """
    unknown = placeholders(template) - set(known)
    if unknown:
        raise ValueError(
            f"unknown placeholder {', '.join(sorted(unknown))}; known are {', '.join(sorted(known))}"
        )
    try:
        orjson.dumps(template)
    except orjson.JSONEncodeError as error:
        raise ValueError(f"the template is no JSON: {error}") from None
    return _compiled(template)


def _walk(template: object, found: set[str], *, depth: int, nodes: int = 0) -> int:
    nodes += 1
    if nodes > _MAX_NODES or depth > _MAX_DEPTH:
        raise ValueError(f"a template has at most {_MAX_NODES} parts, {_MAX_DEPTH} deep")
    match template:
        case str():
            found |= {match[1] for match in _PLACEHOLDER.finditer(template) if match[1] is not None}
        case dict():
            for name, part in template.items():
                if not isinstance(name, str):
                    # Pydantic takes ValueError for a fault of the settings
                    raise ValueError(f"the name {name!r} is no text")  # noqa: TRY004
                nodes = _walk(part, found, depth=depth + 1, nodes=nodes)
        case list() | tuple():
            for part in template:
                nodes = _walk(part, found, depth=depth + 1, nodes=nodes)
        case None | bool() | int() | float():
            pass
        case _:
            raise ValueError(f"{type(template).__name__} is no JSON")
    return nodes


def _compiled(template: object) -> Fill:
    match template:
        case str():
            return _text(template)
        case dict():
            members = [(str(name), _compiled(part)) for name, part in template.items()]
            fixed = {name for name, part in template.items() if part is None}

            def fill_object(values: Mapping[str, object]) -> object:
                filled = ((name, fill(values)) for name, fill in members)
                return {name: value for name, value in filled if value is not None or name in fixed}

            return fill_object
        case list() | tuple():
            parts = [_compiled(part) for part in template]
            return lambda values: [fill(values) for fill in parts]
        case _:
            return lambda _: template


def _text(template: str) -> Fill:
    whole = _PLACEHOLDER.fullmatch(template)
    if whole is not None and whole[1] is not None:
        name = whole[1]
        return lambda values: values[name]

    def fill(values: Mapping[str, object]) -> object:
        return _PLACEHOLDER.sub(
            lambda found: found[0][0] if found[1] is None else _written(values[found[1]]), template
        )

    return fill


def _written(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case _:
            return str(value)
