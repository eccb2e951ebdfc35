"""The retained documents of devices: one while a device is silent, and no ghost of it. Each topic is noted in
the database before it is published. Must not know who speaks, or when.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from gateway.bulkhead import contained
from gateway.events.documents import device_document
from gateway.events.session import StrictClient
from gateway.store import retained
from gateway.store import silence as store
from gateway.store.pool import Database
from gateway.store.silence import Reported

CHANGED_AT_ONCE = 200
"""Devices whose document one `say` publishes because it has changed; the others wait for the next."""

CONNECTED_AT_ONCE = 200
"""Devices that one `say` repeats after a connect."""

REPEATED_AT_ONCE = 40
"""The same at any other time."""

Retain = Callable[[StrictClient, str, bytes], Awaitable[None]]


class DeviceDocuments:
    """`say`, asked once a second while there is something, publishes what has changed and goes on with the
    round that `repeat` began.
    """

    def __init__(self, root: str, database: Database, retain: Retain) -> None:
        self._root = root
        self._database = database
        self._retain = retain
        self._round: tuple[str, str] | None = ("", "")
        """Customer and id of the device that was repeated last; None: the round has ended."""
        self._round_size = CONNECTED_AT_ONCE

    def repeat(self, *, connected: bool) -> None:
        """Everything is said again, from now on. A round that is under way goes on."""
        if connected or self._round is None:
            self._round = ("", "")
            self._round_size = CONNECTED_AT_ONCE if connected else REPEATED_AT_ONCE

    async def say(self, client: StrictClient) -> bool:
        """What changed, and the next of the round. What is over and was not emptied ends with the round.
        Whether there was anything, or a round goes on. Raises MqttError, StoreError.
        """
        changed = await store.untold(self._database, CHANGED_AT_ONCE)
        await self._tell(client, changed)
        if self._round is not None:
            await self._repeat(client, self._round)
        return bool(changed) or self._round is not None

    async def _repeat(self, client: StrictClient, after: tuple[str, str]) -> None:
        again = await store.repeated(self._database, after, self._round_size)
        await self._tell(client, again)
        if len(again) == self._round_size:
            self._round = again[-1].customer, again[-1].device
            return
        ghosts = await retained.device_ghosts(self._database, limit=self._round_size)
        await self._empty(client, ghosts)
        if len(ghosts) < self._round_size:
            self._round = None

    async def _tell(self, client: StrictClient, found: Sequence[Reported]) -> None:
        if not found:
            return
        silent = [each for each in found if each.silent_since is not None]
        if silent:
            places = [(self._topic(each), each.customer, each.device) for each in silent]
            await retained.remember_devices(self._database, places)
        for each in silent:
            await self._say(client, self._topic(each), each)
        back = {self._topic(each): each for each in found if each.silent_since is None}
        if back:
            held = sorted(await retained.device_topics(self._database, list(back)))
            for topic in held:  # its last word is heard once, and stays nowhere
                await self._say(client, topic, back[topic])
            await self._empty(client, held)
        # what cannot be shown is tried again when it changes, or with the next round
        await store.told(self._database, found)

    async def _say(self, client: StrictClient, topic: str, device: Reported) -> None:
        payload = b""
        with contained("status", device.customer):
            payload = device_document(device).payload()
        if payload:
            await self._retain(client, topic, payload)

    async def _empty(self, client: StrictClient, topics: Sequence[str]) -> None:
        for topic in topics:
            await self._retain(client, topic, b"")
        if topics:
            await retained.devices_emptied(self._database, topics)

    def _topic(self, device: Reported) -> str:
        return f"{self._root}/customers/{device.customer}/devices/{device.device}/status"
