"""Paths into a document: `a.b`, `a."key with.dots"`, `list[0].value`. No language: names and places only."""

from __future__ import annotations

import re

Path = tuple[str | int, ...]

MISSING = object()
"""What `find` returns where there is nothing; None is a value that devices send."""

_STEP = re.compile(
    r'(?:(?P<dot>\.)|^)?(?:"(?P<quoted>(?:[^"\\]|\\.)+)"|(?P<name>[^."\[\]]+))|\[(?P<index>\d{1,6})\]'
)


class PathError(ValueError):
    """A path that cannot be read; the text says where."""


def compile_path(text: str) -> Path:
    """The steps of a path. Raises PathError."""
    steps: list[str | int] = []
    end = 0
    for found in _STEP.finditer(text):
        if found.start() != end or (found["index"] is None and bool(steps) != (found["dot"] is not None)):
            break
        if found["index"] is not None:
            steps.append(int(found["index"]))
        elif found["quoted"] is not None:
            steps.append(re.sub(r"\\(.)", r"\1", found["quoted"]))
        else:
            steps.append(found["name"])
        end = found.end()
    if not steps or end != len(text):
        raise PathError(
            f'{text!r} is no path (at character {end + 1}): write a.b, a."key with.dots" or list[0].value'
        )
    return tuple(steps)


def find(document: object, path: Path) -> object:
    """What is there of a document of dicts and lists, MISSING where nothing is."""
    for step in path:
        if type(document) is dict:
            document = document.get(step, MISSING)
        elif type(document) is list and type(step) is int and step < len(document):
            document = document[step]
        else:
            return MISSING
    return document


def shown(path: Path) -> str:
    """The path as people write it."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            plain = (
                step if re.fullmatch(r'[^."\[\]]+', step) else '"' + re.sub(r'(["\\])', r"\\\1", step) + '"'
            )
            text += f".{plain}" if text else plain
    return text
