"""Issues: what needs a person. Opened and solved within the transition that they belong to."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import asyncpg

from gateway.bulkhead import readable
from gateway.model.connection import IssueCode
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql

Severity = Literal["warning", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewIssue:
    """What a person is told."""

    code: IssueCode
    severity: Severity
    title: str
    instructions: str
    action_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """One that is open."""

    id: str
    connection: str
    code: IssueCode
    severity: Severity
    since: datetime
    title: str
    instructions: str
    action_url: str
    request_id: str | None


async def open_issue(
    connection: Connection, connection_id: str, issue: NewIssue, *, request_id: str | None
) -> None:
    """Opens it, or renews the words of the one that is open; every other issue of the
    connection is solved.
    """
    await connection.execute(sql("issue_solve"), connection_id, issue.code)
    await add(connection, connection_id, issue, request_id=request_id)


async def add(
    connection: Connection, connection_id: str, issue: NewIssue, *, request_id: str | None = None
) -> None:
    """Opens it beside the others, or renews the words of the one that is open."""
    words = (issue.code, issue.severity, issue.title, issue.instructions, issue.action_url, request_id)
    await connection.execute(sql("issue_open"), uuid.uuid4().hex, connection_id, *words)


async def solve(connection: Connection, connection_id: str) -> None:
    """Nothing is left to do for a person."""
    await connection.execute(sql("issue_solve"), connection_id, None)


async def solve_one(connection: Connection, connection_id: str, code: IssueCode) -> None:
    """Nothing is left to do for a person about this; the others stay."""
    await connection.execute(sql("issue_solve_one"), connection_id, code)


async def read(database: Database, connections: Sequence[str]) -> list[Issue]:
    """Open issues of these connections, oldest first."""
    rows = await database.fetch(sql("issue_list"), list(connections))
    return readable(rows, to_issue, name=lambda row: row["issue_id"])


def to_issue(row: asyncpg.Record) -> Issue:
    """An issue from a row that holds its columns."""
    return Issue(
        id=row["issue_id"],
        connection=row["connection_id"],
        code=IssueCode(row["code"]),
        severity=row["severity"],
        since=row["since"],
        title=row["title"],
        instructions=row["instructions"],
        action_url=row["action_url"],
        request_id=row["request_id"],
    )
