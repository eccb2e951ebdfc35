"""What the broker retains of issues, noted so that nothing is left behind, and what was emptied lately."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from gateway.bulkhead import readable
from gateway.store.issues import Issue, to_issue
from gateway.store.pool import Database
from gateway.store.queries import sql


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenIssue:
    """An issue and whose it is."""

    customer: str
    issue: Issue


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenIssues:
    """Those that can be read, and how many there are."""

    issues: list[OpenIssue]
    count: int


async def open_issues(database: Database) -> OpenIssues:
    """Every open issue of a connection that is not disconnected."""
    async with database.connection() as connection:
        rows = await connection.fetch(sql("retained_open"))
    return OpenIssues(
        issues=readable(
            rows,
            lambda row: OpenIssue(customer=row["customer_id"], issue=to_issue(row)),
            name=lambda row: row["issue_id"],
        ),
        count=len(rows),
    )


async def issue_topics(database: Database) -> set[str]:
    """Topics of issues that are retained, or were about to be."""
    async with database.connection() as connection:
        return {row["topic"] for row in await connection.fetch(sql("retained_issues"))}


async def emptied_lately(database: Database, *, within: timedelta) -> Sequence[str]:
    """Topics of documents and issues that were emptied within a time, of a day at most."""
    async with database.connection() as connection:
        return [row["topic"] for row in await connection.fetch(sql("retained_emptied"), within)]


async def alert_topics(database: Database) -> set[str]:
    """Topics of alerts that are retained, or were about to be."""
    async with database.connection() as connection:
        return {row["topic"] for row in await connection.fetch(sql("retained_alerts"))}


async def remember_alerts(database: Database, topics: Sequence[str]) -> None:
    """Before alerts are published there."""
    async with database.connection() as connection:
        await connection.execute(sql("retained_alert_remember"), list(topics))


async def alert_emptied(database: Database, topic: str) -> None:
    """After the alert there was emptied."""
    async with database.connection() as connection:
        await connection.execute(sql("retained_alert_emptying"), topic)


async def remember(database: Database, topic: str) -> None:
    """Before an issue is published there."""
    async with database.connection() as connection:
        await connection.execute(sql("retained_remember"), topic)


async def emptied(database: Database, topic: str) -> None:
    """After the issue there was emptied."""
    async with database.connection() as connection:
        await connection.execute(sql("retained_emptying"), topic)
