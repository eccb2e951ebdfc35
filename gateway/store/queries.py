"""Named SQL, read from `sql/<name>.sql` once."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def sql(name: str) -> str:
    """The text of `sql/<name>.sql`, with asyncpg's `$n` parameters."""
    return files("gateway.store").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


def names() -> list[str]:
    """Every query there is: a test prepares each of them."""
    return sorted(
        entry.name.removesuffix(".sql")
        for entry in files("gateway.store").joinpath("sql").iterdir()
        if entry.name.endswith(".sql")
    )
