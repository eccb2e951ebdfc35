"""The retained documents of connections: a status while a connection lives, an issue while it is open, and no
ghost of either. Those of devices are said with them.

Each topic is noted in the database before it is published, so whoever speaks next knows what to empty. Must
not know who speaks, or when.

What changes is queued in the database by whatever changes it (`retained_change`), so nobody looks through all
connections for it; all of them are said again in rounds, a few at a time, for a broker may have forgotten.
Both keep to a budget: a broker that returns to five thousand connections costs the database a little for a
minute, and not all of it for ten seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import structlog

from gateway import clock
from gateway.bulkhead import contained
from gateway.events.device_documents import DeviceDocuments
from gateway.events.documents import alert_document, issue_document, status_document
from gateway.events.session import PublishRefused, StrictClient
from gateway.model.connection import State
from gateway.model.status import ConnectionStatus
from gateway.store import alerts, retained, status
from gateway.store.alerts import Alert, AlertsToPublish
from gateway.store.pool import Database

log = structlog.get_logger(__name__)

CHANGED_AT_ONCE = 200
"""Connections whose documents one `say` publishes because they have changed; the others wait for the next."""

CONNECTED_AT_ONCE = 100
"""Connections that one `say` repeats after a connect."""

REPEATED_AT_ONCE = 20
"""The same at any other time."""

ALERTS_CONNECTED_AT_ONCE = 200
ALERTS_REPEATED_AT_ONCE = 40
"""The same of alerts, which one connection may have thousands of."""

REFUSED_SECONDS = 240.0
FORGOTTEN = timedelta(days=1)
"""How far a broker that comes back may be behind: what was emptied within it is emptied again after a
connect.
"""

SPOKEN_LATE = timedelta(minutes=15)
"""The same with each repetition: a speaker that stood still, and knew nothing of its successor, may have
published there what it had read before.
"""


class ConnectionDocuments:
    """`say`, asked once a second while there is something, publishes what has changed and goes on with the
    round that `repeat` began.
    """

    def __init__(self, root: str, database: Database) -> None:
        self._root = root
        self._database = database
        self._issues: dict[str, dict[str, bytes]] = {}
        """Of each connection what was said of its issues, by topic, since they were last repeated."""
        self._empties: timedelta | None = FORGOTTEN
        self._refused: dict[str, float] = {}
        self._round: str | None = ""
        """The connection that was repeated last; None: the round has ended."""
        self._round_size = CONNECTED_AT_ONCE
        self._alert_round: str | None = ""
        """The alert that was repeated last, as with connections."""
        self._alert_round_size = ALERTS_CONNECTED_AT_ONCE
        self._devices = DeviceDocuments(root, database, self._retain)

    def repeat(self, *, connected: bool = False) -> None:
        """Everything is said again, from now on. `connected`: to a broker that may have forgotten, or gone
        back in time. A round that is under way goes on.
        """
        if connected:
            self._round, self._round_size = "", CONNECTED_AT_ONCE
            self._alert_round, self._alert_round_size = "", ALERTS_CONNECTED_AT_ONCE
            self._issues.clear()
        else:
            if self._round is None:
                self._round, self._round_size = "", REPEATED_AT_ONCE
            if self._alert_round is None:
                self._alert_round, self._alert_round_size = "", ALERTS_REPEATED_AT_ONCE
        self._devices.repeat(connected=connected)
        self._empties = FORGOTTEN if connected else self._empties or SPOKEN_LATE

    async def say(self, client: StrictClient) -> bool:
        """Publishes what changed, empties what is gone and repeats the next of the round, each within its
        budget. Whether there was anything, or a round goes on. Raises MqttError, StoreError: then the same is
        said again.
        """
        if self._empties is not None:
            for topic in await retained.emptied_lately(self._database, within=self._empties):
                await self._retain(client, topic, b"")
            self._empties = None
        changed = await retained.changes(self._database, limit=CHANGED_AT_ONCE)
        said = [change.connection for change in changed]
        if changed:
            await self._say(client, said)
            await retained.settle(self._database, changed)
        if self._round is not None:
            names = await retained.following(self._database, self._round, limit=self._round_size)
            for name in names:
                self._issues.pop(name, None)
            await self._say(client, [name for name in names if name not in said])
            self._round = names[-1] if len(names) == self._round_size else None
        alerts_changed = await self._say_alerts(client)
        devices_changed = await self._devices.say(client)
        goes_on = self._round is not None or self._alert_round is not None
        return bool(changed) or alerts_changed or devices_changed or goes_on

    async def _say(self, client: StrictClient, names: Sequence[str]) -> None:
        if names:
            await self._say_statuses(client, names)
            await self._say_issues(client, names)

    async def _say_statuses(self, client: StrictClient, names: Sequence[str]) -> None:
        told = await status.told(self._database, names)
        said = [(found, *self._document(found)) for found in await status.read(self._database, names)]
        # what cannot be shown is tried again when it changes, or with the next round
        said = [each for each in said if each[2] and each[0].connection not in told]
        if said:
            await status.published(
                self._database, [(found.connection, topic, found.version) for found, topic, _ in said]
            )
        for found, topic, payload in said:
            await self._retain(client, topic, payload)
            if found.state is State.DISCONNECTED:  # its last word is heard once, and stays nowhere
                await self._retain(client, topic, b"")
                await status.ended(self._database, found.connection)
                log.info("events.status_removed", connection=found.connection)
        for name, topic in (await status.gone(self._database, names)).items():
            await self._retain(client, topic, b"")
            await status.forget(self._database, name)
            log.info("events.status_removed", connection=name)

    def _document(self, found: ConnectionStatus) -> tuple[str, bytes]:
        """Topic and payload; nothing of what cannot be shown."""
        payload = b""
        with contained("status", found.connection):
            payload = status_document(found, now=clock.now()).payload()
        return f"{self._place(found.customer, found.connection)}/status", payload

    async def _say_issues(self, client: StrictClient, names: Sequence[str]) -> None:
        held = await retained.issue_topics(self._database, names)
        opened = await retained.open_issues(self._database, names)
        wanted = {
            f"{self._place(each.customer, each.connection)}/issues/{each.issue}": each
            for each in opened.places
        }
        if unknown := wanted.keys() - held:
            await retained.remember(self._database, sorted(unknown))
        said = {name: self._issues.pop(name, {}) for name in names}
        for topic, each in wanted.items():
            payload = b""
            with contained("issue", each.issue):
                if (issue := opened.issues.get(each.issue)) is not None:
                    payload = issue_document(issue).payload()
            if payload and said[each.connection].get(topic) != payload:
                await self._retain(client, topic, payload)
            self._issues.setdefault(each.connection, {})[topic] = payload
        for topic in held - wanted.keys():
            await self._retain(client, topic, b"")
            await retained.emptied(self._database, topic)

    async def _say_alerts(self, client: StrictClient) -> bool:
        """Those that changed, and the next of the round. What is over and was not emptied ends with the
        round. Whether any had changed.
        """
        changed = await alerts.untold(self._database, CHANGED_AT_ONCE)
        await self._tell(client, changed)
        if self._alert_round is not None:
            await self._repeat_alerts(client, self._alert_round)
        return bool(changed.versions)

    async def _repeat_alerts(self, client: StrictClient, after: str) -> None:
        again = await alerts.repeated(self._database, after, self._alert_round_size)
        await self._tell(client, again)
        if len(again.versions) == self._alert_round_size:
            self._alert_round = again.versions[-1][0]
            return
        ghosts = await retained.alert_ghosts(self._database, limit=self._alert_round_size)
        await self._empty_alerts(client, ghosts)
        if len(ghosts) < self._alert_round_size:
            self._alert_round = None

    async def _tell(self, client: StrictClient, found: AlertsToPublish) -> None:
        if not found.versions:
            return
        wanted = {self._alert_topic(alert): alert for alert in found.retained}
        if wanted:
            await retained.remember_alerts(self._database, sorted(wanted))
        for topic, alert in wanted.items():
            payload = b""
            with contained("alert", alert.connection):
                payload = alert_document(alert).payload()
            if payload:
                await self._retain(client, topic, payload)
        if found.emptied:
            over = [self._alert_topic(alert) for alert in found.emptied]
            await self._empty_alerts(client, sorted(await retained.alert_topics(self._database, over)))
        # what cannot be shown is tried again when it changes, or with the next round
        await alerts.told(self._database, found.versions)

    async def _empty_alerts(self, client: StrictClient, topics: Sequence[str]) -> None:
        for topic in topics:
            await self._retain(client, topic, b"")
            await retained.alert_emptied(self._database, topic)

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
