"""`fieldgate credits` in a process of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gateway.settings import CreditsSettings
from gateway.store import credits as ledger
from gateway.store.pool import Database
from tests.fixtures import programs
from tests.fixtures.ledger import Ledger

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def books(database: Database) -> Ledger:
    books = Ledger(database, CreditsSettings(capacity=10, customer_quota={"globex": 2}))
    await ledger.sync_capacity(database, books.settings)
    await books.add(acme_a=4, acme_b=2, globex_a=2)
    for name in ("acme_a", "acme_b", "globex_a"):
        await books.hold(name)
    await books.post("acme_a")
    return books


async def ask(tmp_path: Path, dsn: str, *arguments: str) -> tuple[int, str, str]:
    path = tmp_path / "fieldgate.yaml"
    path.write_text('database: {dsn: "${env:DSN}"}\nsecurity: {encryption_keys: ["${env:KEY}"]}\n')
    environment = {"DSN": dsn, "KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "COLUMNS": "120"}
    done = await programs.run("credits", "--config", str(path), *arguments, env={**os.environ, **environment})
    return done.returncode, done.stdout, done.stderr


async def test_it_tells_programs_everything(books: Ledger, dsn: str, tmp_path: Path) -> None:
    code, output, _ = await ask(tmp_path, dsn, "--json", "--last", "2")
    told = json.loads(output)
    assert code == 0
    assert {key: told[key] for key in ("capacity", "used", "available", "held", "posted")} == {
        "capacity": 10,
        "used": 8,
        "available": 2,
        "held": 4,
        "posted": 4,
    }
    assert told["tiers"][0] == {"tier": 1, "connections": 3, "credits": 8}
    assert told["customers"] == [
        {"customer": "acme", "connections": 2, "credits": 6, "quota": None},
        {"customer": "globex", "connections": 1, "credits": 2, "quota": 2},
    ]
    assert [(held["connection"], held["credits"]) for held in told["holds"]] == [
        ("acme_b", 2),
        ("globex_a", 2),
    ]
    assert [(line["kind"], line["connection"], line["from"], line["to"]) for line in told["transfers"]] == [
        ("post", "acme_a", "held", "posted"),
        ("hold", "globex_a", "available", "held"),
    ]
    assert told["disagreements"] == []


async def test_it_shows_people_the_pool_and_that_the_books_agree(
    books: Ledger, dsn: str, tmp_path: Path
) -> None:
    code, output, _ = await ask(tmp_path, dsn)
    assert code == 0
    for text in ("8 of 10 used", "4 posted · 4 held · 2 available", "low: 80 %", "counters reconcile"):
        assert text in output
    await ledger.sync_capacity(books.database, CreditsSettings(capacity=5))
    assert "nothing new until 3 are returned" in (await ask(tmp_path, dsn))[1]


@pytest.mark.parametrize("arguments", [(), ("--json",)])
async def test_it_fails_when_the_books_disagree(
    books: Ledger, dsn: str, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    await books.execute("update credit_pool set posted = 5")
    code, output, _ = await ask(tmp_path, dsn, *arguments)
    assert code == 1
    assert "the pool says 5 posted, the transfers sum to 4" in output


async def test_a_database_that_was_not_migrated_is_said(empty_dsn: str, tmp_path: Path) -> None:
    code, _, errors = await ask(tmp_path, empty_dsn)
    assert code == 1
    assert "fieldgate migrate" in errors
    assert "Traceback" not in errors
