"""The retained documents of connections: a status while a connection lives, an issue while it is open, and no
ghost of either.

Each topic is noted in the database before it is published, so whoever speaks next knows what to empty. Must
not know who speaks, or when.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog

from gateway import clock
from gateway.bulkhead import contained
from gateway.events.documents import alert_document, issue_document, status_document
from gateway.events.session import PublishRefused, StrictClient
from gateway.model.connection import State
from gateway.store import alerts, retained, status
from gateway.store.alerts import Alert
from gateway.store.pool import Database

log = structlog.get_logger(__name__)

REFUSED_SECONDS = 240.0
FORGOTTEN = timedelta(days=1)
"""How far a broker that comes back may be behind: what was emptied within it is emptied again after a connect."""

LOOK_BACK = timedelta(seconds=30)
"""Longer than any transaction that moves alerts: one that began before the last look may commit after it."""

SPOKEN_LATE = timedelta(minutes=15)
"""The same with each repetition: a speaker that stood still, and knew nothing of its successor, may have published
there what it had read before.
"""


class ConnectionDocuments:
    """What the broker is known to retain since `repeat`; `say` brings it up to date."""

    def __init__(self, root: str, database: Database) -> None:
        self._root = root
        self._database = database
        self._versions: dict[str, int] = {}
        self._issues: dict[str, bytes] = {}
        self._issue_topics: set[str] | None = None
        self._empties: timedelta | None = FORGOTTEN
        self._refused: dict[str, float] = {}
        self._alerts: dict[str, int] = {}
        self._alert_topics: set[str] | None = None
        self._alerts_since: datetime | None = None

    def repeat(self, *, connected: bool = False) -> None:
        """Everything is published again by the next `say`. `connected`: to a broker that may have forgotten,
        or gone back in time.
        """
        self._versions.clear()
        self._issues.clear()
        self._issue_topics = None
        self._alerts.clear()
        self._alert_topics = None
        self._empties = FORGOTTEN if connected else self._empties or SPOKEN_LATE

    async def say(self, client: StrictClient) -> None:
        """Publishes what changed and empties what is gone. Raises MqttError, StoreError."""
        if self._empties is not None:
            for topic in await retained.emptied_lately(self._database, within=self._empties):
                await self._retain(client, topic, b"")
            self._empties = None
        await self._say_statuses(client)
        await self._say_issues(client)
        await self._say_alerts(client)

    async def _say_statuses(self, client: StrictClient) -> None:
        versions = await status.versions(self._database)
        stale = [name for name, current in versions.items() if self._versions.get(name) != current]
        if stale:
            await self._publish(client, stale)
        if stale or not versions or self._versions.keys() != versions.keys():
            for name, topic in (await status.gone(self._database)).items():
                await self._retain(client, topic, b"")
                await status.forget(self._database, name)
                log.info("events.status_removed", connection=name)
            self._versions = {name: at for name, at in self._versions.items() if name in versions}

    async def _publish(self, client: StrictClient, names: list[str]) -> None:
        for found in await status.read(self._database, names):
            topic, payload = f"{self._place(found.customer, found.connection)}/status", b""
            with contained("status", found.connection):
                payload = status_document(found, now=clock.now()).payload()
            if (
                not payload
            ):  # what cannot be shown is tried again when it changes, or with the next repetition
                self._versions[found.connection] = found.version
                continue
            await status.published(self._database, found.connection, topic, found.version)
            await self._retain(client, topic, payload)
            self._versions[found.connection] = found.version
            if found.state is State.DISCONNECTED:  # its last word is heard once, and stays nowhere
                await self._retain(client, topic, b"")
                await status.ended(self._database, found.connection)
                log.info("events.status_removed", connection=found.connection)

    async def _say_issues(self, client: StrictClient) -> None:
        if self._issue_topics is None:
            self._issue_topics = await retained.issue_topics(self._database)
        opened, wanted = await retained.open_issues(self._database), dict[str, bytes]()
        for found in opened.issues:
            with contained("issue", found.issue.id):
                topic = f"{self._place(found.customer, found.issue.connection)}/issues/{found.issue.id}"
                wanted[topic] = issue_document(found.issue).payload()
        for topic, payload in wanted.items():
            if self._issues.get(topic) == payload:
                continue
            if topic not in self._issue_topics:
                await retained.remember(self._database, topic)
                self._issue_topics.add(topic)
            await self._retain(client, topic, payload)
            self._issues[topic] = payload
        if len(wanted) < opened.count:  # what cannot be read may be open still
            return
        for topic in self._issue_topics - wanted.keys():
            await self._retain(client, topic, b"")
            await retained.emptied(self._database, topic)
            self._issue_topics.discard(topic)
            self._issues.pop(topic, None)

    async def _say_alerts(self, client: StrictClient) -> None:
        """All of them after a repetition; then what changed, looking back as far as a transaction may last."""
        whole = self._alert_topics is None
        known = (
            await retained.alert_topics(self._database) if self._alert_topics is None else self._alert_topics
        )
        self._alert_topics = known
        since = None if whole or self._alerts_since is None else self._alerts_since - LOOK_BACK
        found = await alerts.to_retain(self._database, since)
        wanted = {
            self._alert_topic(alert): alert
            for alert in found.open
            if self._alerts.get(alert.alert) != alert.version
        }
        if fresh := [topic for topic in wanted if topic not in known]:
            await retained.remember_alerts(self._database, fresh)
            known.update(fresh)
        for topic, alert in wanted.items():
            payload = b""
            with contained("alert", alert.connection):
                payload = alert_document(alert).payload()
            if payload:
                await self._retain(client, topic, payload)
            self._alerts[alert.alert] = alert.version
        gone = {self._alert_topic(alert) for alert in found.over} & known
        if whole and found.is_whole:
            gone |= known - {self._alert_topic(alert) for alert in found.open}
        for topic in gone:
            await self._retain(client, topic, b"")
            await retained.alert_emptied(self._database, topic)
            known.discard(topic)
            self._alerts.pop(topic.rpartition("/")[2], None)
        self._alerts_since = found.as_of

    def _alert_topic(self, alert: Alert) -> str:
        return f"{self._place(alert.customer, alert.connection)}/alerts/{alert.alert}"

    async def _retain(self, client: StrictClient, topic: str, payload: bytes) -> None:
        """A topic that the broker refuses rests, over reconnections too: Mosquitto 2.0 ends the connection
        after it has refused. Said once.
        """
        if clock.monotonic() < self._refused.get(topic, 0.0):
            return
        try:
            await client.retain(topic, payload)
        except PublishRefused as error:
            if topic not in self._refused:
                log.warning(
                    "events.retain_refused",
                    topic=topic,
                    detail=str(error),
                    advice="let the gateway publish under its topic root",
                )
            self._refused[topic] = clock.monotonic() + REFUSED_SECONDS
        else:
            self._refused.pop(topic, None)

    def _place(self, customer: str, connection: str) -> str:
        return f"{self._root}/customers/{customer}/connections/{connection}"
