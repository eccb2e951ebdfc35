"""Forward-only migrations: `migrations/NNNN_name.sql`, all that are missing in one transaction under an
advisory lock: one that fails leaves the database of the version before.
"""

from __future__ import annotations

from importlib.resources import files

from gateway.model.errors import StoreError
from gateway.store.pool import Database

_LOCK = 0x6669656C64  # "field"
MIGRATION_SECONDS = 6 * 3600.0
"""For one of them: what nobody has scanned yet may be much."""


def migrations() -> list[tuple[str, str]]:
    """(name, SQL) in order."""
    folder = files("gateway.store").joinpath("migrations")
    return sorted(
        (entry.name.removesuffix(".sql"), entry.read_text(encoding="utf-8"))
        for entry in folder.iterdir()
        if entry.name.endswith(".sql")
    )


async def migrate(database: Database) -> list[str]:
    """Applies what is missing and returns its names. Replicas that start together wait for each other.

    Raises StoreError when the database has a migration that this version does not know: it is newer than the
    daemon.
    """
    applied: list[str] = []
    async with database.transaction() as connection:
        await connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute(
            "create table if not exists migration (name text primary key, applied_at timestamptz not null"
            " default now())"
        )
        present = {row["name"] for row in await connection.fetch("select name from migration")}
        wanted = migrations()
        if unknown := present - {name for name, _ in wanted}:
            raise StoreError(
                f"the database is newer than this version: it has the migrations {sorted(unknown)}; run the"
                " newer version"
            )
        for name, text in wanted:
            if name not in present:
                await connection.execute(text, timeout=MIGRATION_SECONDS)
                await connection.execute("insert into migration (name) values ($1)", name)
                applied.append(name)
    return applied


async def is_current(database: Database) -> bool:
    """Whether every migration of this version is applied."""
    async with database.connection() as connection:
        if await connection.fetchval("select to_regclass('migration')") is None:
            return False
        present = {row["name"] for row in await connection.fetch("select name from migration")}
    return present >= {name for name, _ in migrations()}
