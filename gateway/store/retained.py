"""What the broker retains of issues, noted so that nothing is left behind, and what was emptied lately."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.model.connection import IssueCode
from gateway.store.issues import Issue
from gateway.store.pool import Database
from gateway.store.queries import sql


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenIssue:
    """An issue and whose it is."""

    customer: str
    issue: Issue


async def open_issues(database: Database) -> list[OpenIssue]:
    """Every open issue of a connection that is not disconnected."""
    async with database.connection() as connection:
        rows = await connection.fetch(sql("retained_open"))
    return [
        OpenIssue(
            customer=row["customer_id"],
            issue=Issue(
                id=row["issue_id"],
                connection=row["connection_id"],
                code=IssueCode(row["code"]),
                severity=row["severity"],
                since=row["since"],
                title=row["title"],
                instructions=row["instructions"],
                action_url=row["action_url"],
                request_id=row["request_id"],
            ),
        )
        for row in rows
    ]


async def issue_topics(database: Database) -> set[str]:
    """Topics of issues that are retained, or were about to be."""
    async with database.connection() as connection:
        return {row["topic"] for row in await connection.fetch(sql("retained_issues"))}


async def emptied_lately(database: Database) -> Sequence[str]:
    """Topics of documents and issues that were emptied within a day."""
    async with database.connection() as connection:
        return [row["topic"] for row in await connection.fetch(sql("retained_emptied"))]


async def remember(database: Database, topic: str) -> None:
    """Before an issue is published there."""
    async with database.connection() as connection:
        await connection.execute(sql("retained_remember"), topic)


async def emptied(database: Database, topic: str) -> None:
    """After the issue there was emptied."""
    async with database.connection() as connection:
        await connection.execute(sql("retained_emptying"), topic)
