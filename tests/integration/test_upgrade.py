"""What docs/upgrade.md promises of the database between two versions."""

from __future__ import annotations

import pytest

from gateway.doctor import Doctor
from gateway.model.errors import StoreError
from gateway.store import inspection
from gateway.store import migrate as store
from gateway.store.pool import Database
from tests.fixtures.connection_rig import settings

OURS = store.migrations()


def version(monkeypatch: pytest.MonkeyPatch, known: list[tuple[str, str]]) -> None:
    """The program is of the version with these migrations."""
    for module in (store, inspection):
        monkeypatch.setattr(module, "migrations", lambda: known)


async def has(database: Database, table: str) -> bool:
    return await database.fetchval("select to_regclass($1)", table) is not None


async def test_a_migration_that_fails_leaves_the_database_of_the_version_before(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = [("9000_good", "create table made_by_9000 (x int)"), ("9001_bad", "alter table nowhere add y int")]
    version(monkeypatch, [*OURS, *new])
    with pytest.raises(StoreError, match="nowhere"):
        await store.migrate(database)
    assert not await has(database, "made_by_9000")
    version(monkeypatch, OURS)
    assert await store.migrate(database) == [], "which starts again as if nothing had been tried"


async def test_the_version_before_does_not_start_over_a_newer_database(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = [*OURS, ("9000_good", "create table made_by_9000 (x int)")]
    doctor = Doctor(settings(), database=database, keys=frozenset())
    version(monkeypatch, newer)
    [lacking] = (await doctor.examine(["migrations"])).checks
    assert "9000_good" in lacking.looked.findings[0].what
    assert await store.migrate(database) == ["9000_good"]
    version(monkeypatch, OURS)
    with pytest.raises(StoreError, match="the database is newer than this version"):
        await store.migrate(database)
    assert await store.is_current(database), "one that runs already goes on"
    [newer_one] = (await doctor.examine(["migrations"])).checks
    assert newer_one.looked.findings
