"""Named SQL, read from `sql/<name>.sql` once."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_SHARED = re.compile(r"^-- and (\w+)\n", re.MULTILINE)
"""A line for the text of `sql/shared/<name>.sql`, which several statements have."""

_FILTER = re.compile(r"\(\$(\d+)::[a-z]+(?:\[\])? is null or ")


@cache
def sql(name: str) -> str:
    """The text of `sql/<name>.sql`, with asyncpg's `$n` parameters."""
    return _SHARED.sub(lambda found: _read("shared", f"{found[1]}.sql"), _read(f"{name}.sql"))


def _read(*path: str) -> str:
    return files("gateway.store").joinpath("sql", *path).read_text(encoding="utf-8")


def filtered(name: str, *arguments: object) -> tuple[str, *tuple[object, ...]]:
    """The text and the arguments of a statement with filters that may be absent, as a session takes them.

    Such a filter is written `($2::text is null or meter = $2)`. A plan is made without the arguments, and by
    one of two conditions it uses no index: so the statement is asked without `is null or` where the filter is
    given, and without the condition where it is not.
    """
    absent = frozenset(number for number, value in enumerate(arguments, start=1) if value is None)
    return _given(name, absent), *arguments


@cache
def _given(name: str, absent: frozenset[int]) -> str:
    text, found = sql(name), 0
    while (match := _FILTER.search(text, found)) is not None:
        found = match.start() + 1
        if int(match[1]) in absent:  # the parameter stays: each has to be in the statement
            kept = f"{match[0].removesuffix(' or ')})"
            text = f"{text[: match.start()]}{kept}{text[_end(text, match.start()) :]}"
        else:
            text = f"{text[:found]}{text[match.end() :]}"
    return text


def _end(text: str, opening: int) -> int:
    """Behind the bracket that closes the one at `opening`."""
    depth = 0
    for place in range(opening, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place + 1
    raise ValueError("a bracket is not closed")


def names() -> list[str]:
    """Every query there is: a test prepares each of them."""
    return sorted(
        entry.name.removesuffix(".sql")
        for entry in files("gateway.store").joinpath("sql").iterdir()
        if entry.name.endswith(".sql")
    )
