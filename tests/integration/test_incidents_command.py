"""`fieldgate incidents` in a process of its own, on a real database."""

from __future__ import annotations

import json
import os
from pathlib import Path

from gateway.connections.incidents import Incidents
from gateway.connections.verdicts import decide
from gateway.store.pool import Database
from tests.fixtures import fleet, programs
from tests.fixtures.fleet import HOSTS, OWNERS, calls, on, pass_time

ROOT = Path(__file__).parents[2]
CONFIGURATION = 'security: {encryption_keys: ["${env:KEY}"]}\ndatabase: {dsn: "${env:DSN}"}\n'


async def fieldgate(folder: Path, dsn: str, *arguments: str) -> str:
    (folder / "fieldgate.yaml").write_text(CONFIGURATION)
    environment = {
        **os.environ,
        "DSN": dsn,
        "KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
        "COLUMNS": "160",
    }
    done = await programs.run(
        "incidents", *arguments, "--config", str(folder / "fieldgate.yaml"), env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_incidents_are_listed_for_people_and_for_programs(
    tmp_path: Path, database: Database, dsn: str
) -> None:
    await fleet.create(database)
    incidents = Incidents(database, owner="replica")
    await calls(incidents, OWNERS, ago=(100.0,))
    await calls(incidents, on(HOSTS[0]), ago=(75.0, 5.0), succeeded=False)
    await calls(incidents, on(HOSTS[2]))
    await decide(database)
    text = await fieldgate(tmp_path, dsn)
    assert text.startswith("host one.example  open for 7")
    assert "7 of 7 connections on host one.example fail (7 of 7 customers), none succeeded for 10" in text
    assert "connections 7: erp00, erp03, erp06" in text

    await calls(incidents, on(HOSTS[0]))
    await decide(database)
    await pass_time(database, 121)
    await decide(database)
    assert await fieldgate(tmp_path, dsn) == "no open incident\n"
    [found] = json.loads(await fieldgate(tmp_path, dsn, "--all", "--json"))
    assert (found["scope"], found["key"], len(found["connections"]), found["closing_detail"][:10]) == (
        "host",
        "one.example",
        7,
        "calm for 1",
    )
    assert found["since"].endswith("Z")
