"""Publishes retained status: this replica's, and for the one that holds the lease the gateway's and every
connection's.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from typing import Literal

import aiomqtt
import structlog

from gateway import clock
from gateway.events.connection_documents import ConnectionDocuments
from gateway.events.documents import GatewayStatus, ReplicaStatus
from gateway.events.session import ControlSession, StrictClient, occurred
from gateway.model.errors import StoreError
from gateway.outage import Outage
from gateway.settings import Settings
from gateway.store import leases, status
from gateway.store.notices import RETAINED, LookPace, Notices
from gateway.store.pool import Database

log = structlog.get_logger(__name__)

LEASE = "gateway_status"
LEASE_SECONDS = 15.0
CLAIM_SECONDS = 5.0
POLL_SECONDS = 1.0
REPEAT_SECONDS = 300.0
GOODBYE_SECONDS = 3.0

GatewayState = Literal["ready", "draining", "lost"]


class StatusPublisher:
    """Two connections to the broker, for a connection has only one last will: the replica's and, with the
    lease, the gateway's.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        replica: str,
        *,
        owner: str | None = None,
        notices: Notices | None = None,
    ) -> None:
        """`owner` is this process's name in leases, made of `replica` where it is not given. `notices` tells
        of documents that change; without it they are asked for.
        """
        self._settings = settings
        self._database = database
        self._replica = replica
        # two that were given one name by mistake still take turns
        self._owner = f"{owner or replica}/{secrets.token_hex(4)}"
        self._root = settings.broker.topic_root
        self._replica_topic = f"{self._root}/replicas/{replica}/status"
        self._gateway_topic = f"{self._root}/gateway/status"
        self._state: GatewayState = "ready"
        self._since = self._online_since = clock.now()
        self._replicas = 1
        self._version = version("fieldgate")  # read from files each time
        self._connections = ConnectionDocuments(self._root, database)
        self._said = b""
        self._leading = False
        self._outage = Outage(
            began=lambda detail: log.warning("events.database_away", detail=detail),
            ended=lambda: log.info("events.database_returned"),
        )
        self._changed = asyncio.Event()
        self._pace = LookPace(notices, RETAINED, POLL_SECONDS, self._documents_changed)
        self._said_state = asyncio.Event()
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()

    async def run(self) -> None:
        """Until `stop` or cancellation. Neither a broker nor a database that is away ends it. Raises
        ConfigError for TLS files that cannot be used.
        """
        presence = ControlSession(
            "replica",
            self._settings.broker,
            will=lambda: self._will(self._replica_topic, ReplicaStatus(online=False, since=clock.now())),
            serve=self._attend,
            farewell=lambda client: client.retain(
                self._replica_topic, ReplicaStatus(online=False, since=clock.now()).payload()
            ),
        )
        self._ended.clear()
        try:
            async with asyncio.TaskGroup() as group:
                present = group.create_task(presence.run(), name="replica status")
                leading = group.create_task(self._lead(), name="gateway status")
                await self._stopping.wait()
                _, late = await asyncio.wait({present, leading}, timeout=GOODBYE_SECONDS)
                for task in late:
                    task.cancel()
            with suppress(StoreError):
                await leases.release(self._database, LEASE, self._owner)
                await status.leave(self._database, self._replica)
        finally:
            self._ended.set()

    def wake(self) -> None:
        """The lease may be free: asks for it at once."""
        self._changed.set()

    def _documents_changed(self) -> None:
        if self._leading:  # whoever does not speak waits for the lease alone
            self._changed.set()

    async def draining(self) -> None:
        """Says that no new work is taken; returns when it is said, or after a short while when the broker is
        away.
        """
        self._move("draining")
        self._said_state.clear()
        self._changed.set()
        if self._leading:
            with suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_SECONDS):
                    await self._said_state.wait()

    async def stop(self) -> None:
        """Says that we leave and gives the lease back; returns when `run` has ended."""
        self._move("lost")
        self._stopping.set()
        self._changed.set()
        await self._ended.wait()

    def _move(self, state: GatewayState) -> None:
        self._state, self._since = state, clock.now()

    # The replica's own status.

    async def _attend(self, client: StrictClient) -> None:
        """Online while connected."""
        online = ReplicaStatus(online=True, since=self._online_since).payload()
        await client.retain(self._replica_topic, online)
        await self._guard(client, self._replica_topic, lambda: online)

    async def _guard(self, client: StrictClient, topic: str, wanted: Callable[[], bytes]) -> None:
        """Until we stop: when another word stands in the topic (the will of our own lost connection comes
        late), ours is put there again.
        """
        await client.subscribe(topic, qos=1)
        listening = asyncio.ensure_future(self._correct(client, topic, wanted))
        stopping = asyncio.ensure_future(occurred(self._stopping))
        try:
            await asyncio.wait({listening, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if listening.done():
                listening.result()
        finally:
            await _cancelled(listening, stopping)

    async def _correct(self, client: StrictClient, topic: str, wanted: Callable[[], bytes]) -> None:
        async for message in client.messages:
            if message.payload != wanted():
                log.info("events.status_reasserted", topic=topic)
                await client.retain(topic, wanted())

    # The gateway's and the connections' status, for the holder of the lease.
    # Not by `gateway.events.leading`: whoever stops has a last word to say only if it still leads, and each
    # claim counts the replicas that are here.

    async def _lead(self) -> None:
        while not self._stopping.is_set():
            if await self._claim():
                log.info("events.leadership_taken", replica=self._replica)
                self._leading = True
                await self._while_leading()
                self._leading = False
            else:
                await self._pause(CLAIM_SECONDS)

    async def _while_leading(self) -> None:
        """Speaks until the lease is lost or we stop."""
        speaker = ControlSession(
            "gateway",
            self._settings.broker,
            will=self._gateway_will,
            serve=self._speak,
            farewell=self._leave_gateway,
        )
        speaking = asyncio.ensure_future(speaker.run())
        try:
            while not speaking.done():
                await asyncio.wait({speaking}, timeout=CLAIM_SECONDS)
                if not speaking.done() and not self._stopping.is_set() and not await self._claim():
                    log.info("events.leadership_lost", replica=self._replica)
                    self._leading = False
                    return
            speaking.result()
        finally:
            await _cancelled(speaking)

    async def _claim(self) -> bool:
        """Whether the lease is ours. While the database is away nobody can take it, so it stays as it was."""
        try:
            replicas = await status.beat(self._database, self._replica, silent_seconds=LEASE_SECONDS)
            if replicas != self._replicas:
                self._replicas = replicas
                self._documents_changed()
            held = await leases.claim(self._database, LEASE, self._owner, LEASE_SECONDS) is not None
        except StoreError as error:
            self._outage.note(str(error))
            return self._leading
        self._outage.note(None)
        return held

    async def _speak(self, client: StrictClient) -> None:
        """What changes, and everything again in rounds, the first after each connect, until we stop."""
        self._said = b""
        self._connections.repeat(connected=True)
        await self._say_gateway(client)
        guard = asyncio.ensure_future(self._guard(client, self._gateway_topic, lambda: self._said))
        try:
            repeat_monotonic = clock.monotonic() + REPEAT_SECONDS
            while not guard.done():
                if clock.monotonic() >= repeat_monotonic:
                    self._connections.repeat()
                    repeat_monotonic = clock.monotonic() + REPEAT_SECONDS
                await self._say_gateway(client)
                found = await self._say_connections(client)
                await self._pause(self._pace.seconds(found=found), guard)
            guard.result()
        finally:
            await _cancelled(guard)

    async def _leave_gateway(self, client: StrictClient) -> None:
        """The last word, unless another replica has the say now."""
        if self._leading:
            lost = GatewayStatus(
                state="lost",
                replicas=max(0, self._replicas - 1),
                since=clock.now(),
                version=self._version,
            )
            await client.retain(self._gateway_topic, lost.payload())

    async def _say_gateway(self, client: StrictClient) -> None:
        state = self._state
        document = GatewayStatus(
            state=state, replicas=self._replicas, since=self._since, version=self._version
        )
        if (payload := document.payload()) != self._said:
            self._said = payload
            await client.retain(self._gateway_topic, payload)
        if state is self._state:
            self._said_state.set()

    async def _say_connections(self, client: StrictClient) -> bool:
        """Whether there was, or is, something to say."""
        with self._outage.of_store():
            return await self._connections.say(client)
        return True

    def _gateway_will(self) -> aiomqtt.Will:
        lost = GatewayStatus(
            state="lost", replicas=max(0, self._replicas - 1), since=clock.now(), version=self._version
        )
        return self._will(self._gateway_topic, lost)

    def _will(self, topic: str, document: GatewayStatus | ReplicaStatus) -> aiomqtt.Will:
        return aiomqtt.Will(topic, document.payload(), qos=1, retain=True)

    async def _pause(self, seconds: float, *watched: asyncio.Future[None]) -> None:
        """Until something is to be said at once, one of `watched` ends, or the time is over."""
        changed = asyncio.ensure_future(occurred(self._changed))
        try:
            await asyncio.wait({changed, *watched}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        if not self._stopping.is_set():
            self._changed.clear()


async def _cancelled(*futures: asyncio.Future[None]) -> None:
    for future in futures:
        future.cancel()
    await asyncio.gather(*futures, return_exceptions=True)
