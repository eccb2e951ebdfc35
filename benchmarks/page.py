"""Owns the part of a page of docs that a command makes: what stands between two marks, and nothing else of
it.
"""

from __future__ import annotations


def between(page: str, command: str, made: str) -> str:
    """The page with `made` between the marks of `command`. Raises ValueError where the marks are not there."""
    begin, end = (f"<!-- made by `{command}`: {word} -->" for word in ("begin", "end"))
    before, began, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not (began and ended):
        raise ValueError(f"the page has no {begin} and {end}")
    return f"{before}{begin}\n\n{made}\n\n{end}{after}"


def table(columns: list[str], lines: list[list[str]]) -> list[str]:
    """A table of Markdown, numbers to the right as soon as the first line has one there."""
    first = lines[0] if lines else [""] * len(columns)
    aligned = ["---:" if index and cell[:1].isdigit() else "---" for index, cell in enumerate(first)]
    return [
        f"| {' | '.join(line)} |"
        for line in (columns, aligned, *[[cell_of(cell) for cell in line] for line in lines])
    ]


def cell_of(text: str) -> str:
    """The text as it may stand in a table."""
    return " ".join(text.replace("|", "/").split())
