"""Tables that are sorted by a column: `?sort=name`, or `?sort=-name` for the greatest first. Links and a
field of the form, so that it works without script; on a phone, where a table has no head, the field alone.
Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorting:
    """How a table is sorted: `column` '' is the order that it has by itself. `titles`: of each column that it
    can be sorted by; `greatest_first`: those of which the first press shows the greatest.
    """

    column: str
    descending: bool
    titles: Mapping[str, str]
    greatest_first: frozenset[str]
    address: Callable[[str], str]

    @property
    def text(self) -> str:
        """As it stands in the address; empty for the order by itself."""
        return f"{'-' if self.descending else ''}{self.column}"

    @property
    def choices(self) -> list[tuple[str, str]]:
        """What the form offers: the text of each order, and what it says."""
        found: list[tuple[str, str]] = []
        for name, title in self.titles.items():
            both = [(name, f"{title}, ascending"), (f"-{name}", f"{title}, descending")]
            found += reversed(both) if name in self.greatest_first else both
        return found

    def link(self, column: str) -> str:
        """The table sorted by this column; where it is so already, the other way round."""
        descending = not self.descending if column == self.column else column in self.greatest_first
        return self.address(f"{'-' if descending else ''}{column}")

    def direction(self, column: str) -> str:
        """What `aria-sort` says of the column; empty where the table is sorted by another."""
        if column != self.column:
            return ""
        return "descending" if self.descending else "ascending"

    def sorted(self, rows: Iterable[T], keys: Mapping[str, Callable[[T], Any]]) -> list[T]:
        """Rows that are all here, by this column; what has no value comes last, whichever way."""
        listed = list(rows)
        if self.column not in keys:
            return listed
        key = keys[self.column]
        known = [row for row in listed if key(row) is not None]
        known.sort(key=key, reverse=self.descending)
        return known + [row for row in listed if key(row) is None]


def sorting(
    given: str,
    titles: Mapping[str, str],
    address: Callable[[str], str],
    *,
    greatest_first: Iterable[str] = (),
) -> Sorting:
    """What an address asks for; what it cannot be sorted by is left out."""
    column = given.removeprefix("-")
    is_known = column in titles
    return Sorting(
        column=column if is_known else "",
        descending=is_known and given.startswith("-"),
        titles=titles,
        greatest_first=frozenset(greatest_first),
        address=address,
    )
