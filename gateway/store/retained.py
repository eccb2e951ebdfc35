"""What the broker retains of connections: which of it may have changed, what is retained of issues, noted so
that nothing is left behind, and what was emptied lately.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from gateway.bulkhead import readable
from gateway.store.issues import Issue, to_issue
from gateway.store.pool import Database
from gateway.store.queries import sql


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedConnection:
    """A connection whose documents may differ from what was published. `changes` tells a later change from
    those that were seen.
    """

    connection: str
    changes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuePlace:
    """Whose an open issue is, and its id: what its topic is made of."""

    customer: str
    connection: str
    issue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenIssues:
    """Every open issue, and of those that can be read what they say."""

    places: tuple[IssuePlace, ...]
    issues: dict[str, Issue]


async def changes(database: Database, *, limit: int) -> list[ChangedConnection]:
    """The first that changed first."""
    rows = await database.fetch(sql("retained_changes"), limit)
    return [ChangedConnection(connection=row["connection_id"], changes=row["changes"]) for row in rows]


async def settle(database: Database, seen: Sequence[ChangedConnection]) -> None:
    """What was published is no change any more. What has changed again meanwhile stays one."""
    await database.execute(
        sql("retained_settle"), [each.connection for each in seen], [each.changes for each in seen]
    )


async def following(database: Database, after: str, *, limit: int) -> list[str]:
    """The next connections that have documents, by id."""
    rows = await database.fetch(sql("retained_round"), after, limit)
    return [row["connection_id"] for row in rows]


async def open_issues(database: Database, connections: Sequence[str]) -> OpenIssues:
    """Every open issue of those of these connections that are not disconnected."""
    rows = await database.fetch(sql("retained_open"), list(connections))
    return OpenIssues(
        places=tuple(
            IssuePlace(customer=row["customer_id"], connection=row["connection_id"], issue=row["issue_id"])
            for row in rows
        ),
        issues={issue.id: issue for issue in readable(rows, to_issue, name=lambda row: row["issue_id"])},
    )


async def issue_topics(database: Database, connections: Sequence[str]) -> set[str]:
    """Topics of these connections' issues that are retained, or were about to be."""
    rows = await database.fetch(sql("retained_issues"), list(connections))
    return {row["topic"] for row in rows}


async def emptied_lately(database: Database, *, within: timedelta) -> Sequence[str]:
    """Topics of documents and issues that were emptied within a time, of a day at most."""
    return [row["topic"] for row in await database.fetch(sql("retained_emptied"), within)]


async def alert_topics(database: Database, topics: Sequence[str]) -> set[str]:
    """Those of these topics of alerts that are retained, or were about to be."""
    return {row["topic"] for row in await database.fetch(sql("retained_alerts"), list(topics))}


async def alert_ghosts(database: Database, *, limit: int) -> list[str]:
    """Topics that are retained of alerts that are over, or gone."""
    return [row["topic"] for row in await database.fetch(sql("retained_alert_ghosts"), limit)]


async def remember_alerts(database: Database, topics: Sequence[str]) -> None:
    """Before alerts are published there."""
    await database.execute(sql("retained_alert_remember"), list(topics))


async def alert_emptied(database: Database, topic: str) -> None:
    """After the alert there was emptied."""
    await database.execute(sql("retained_alert_emptying"), topic)


async def remember(database: Database, topics: Sequence[str]) -> None:
    """Before issues are published there."""
    await database.execute(sql("retained_remember"), list(topics))


async def emptied(database: Database, topic: str) -> None:
    """After the issue there was emptied."""
    await database.execute(sql("retained_emptying"), topic)


async def device_topics(database: Database, topics: Sequence[str]) -> set[str]:
    """Those of these topics of devices that are retained, or were about to be."""
    return {row["topic"] for row in await database.fetch(sql("retained_devices"), list(topics))}


async def device_ghosts(database: Database, *, limit: int) -> list[str]:
    """Topics that are retained of devices that are not silent, or gone."""
    return [row["topic"] for row in await database.fetch(sql("retained_device_ghosts"), limit)]


async def remember_devices(database: Database, places: Sequence[tuple[str, str, str]]) -> None:
    """Topic, customer and device, before documents are published there."""
    await database.execute(
        sql("retained_device_remember"),
        [topic for topic, _, _ in places],
        [customer for _, customer, _ in places],
        [device for _, _, device in places],
    )


async def devices_emptied(database: Database, topics: Sequence[str]) -> None:
    """After the documents there were emptied."""
    await database.execute(sql("retained_device_emptying"), list(topics))
