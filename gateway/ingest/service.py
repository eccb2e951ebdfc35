"""The ingest service: divides partitions between replicas by leases, and runs those that are ours."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from gateway import clock
from gateway.ingest.decode import FormerIntake, unknown
from gateway.ingest.intake import Intake
from gateway.ingest.partition import Partition
from gateway.ingest.quotas import Quotas
from gateway.ingest.registry import Registry
from gateway.ingest.upkeep import Upkeep
from gateway.model.errors import BrokerRefused, LeaseLost, StoreError
from gateway.model.moving import Moves
from gateway.model.pressure import Pressure
from gateway.model.sample import from_microseconds
from gateway.settings import Settings
from gateway.store import leases, moving, presence
from gateway.store import sessions as store_sessions
from gateway.store.leases import Term
from gateway.store.pool import Database

log = structlog.get_logger(__name__)

HEARD_SECONDS = 5.0
BREAK_SECONDS = 15.0
"""Between two words that a partition was listened to: more is a break."""


class Ingest:
    """Telemetry from MQTT to committed rows. `run` until cancelled; `stop` ends it without losing what is in
    hand. `reload` changes what is taken while it runs.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        replica: str,
        *,
        pressure: Pressure | None = None,
        registry: Registry | None = None,
    ) -> None:
        """`database` is best its own: commits wait for nobody else's sessions. `pressure` is told how they
        fare, `registry` of which devices they are.
        """
        self._pressure = pressure
        self._registry = registry
        self._settings = settings
        self._database = database
        self._replica = replica
        self._lease_seconds = settings.sync.lease.total_seconds()
        self._introduce = unknown if registry is None else registry.introduce
        self._configured, self._moves, self._knows_moves = settings, Moves(), False
        self._reloading = asyncio.Lock()
        self._intake = Intake.of(settings, self._introduce)
        self._next: Intake | None = None  # while it is being subscribed beside
        self._former = FormerIntake()
        self._decoder = self._intake.decoder()
        self._ours: dict[int, tuple[Partition, asyncio.Task[None]]] = {}
        self._elsewhere: set[int] = set()
        self._upkeep = Upkeep(settings.quotas, database, self._fill)
        self._full: frozenset[str] = frozenset()
        if registry is not None:
            registry.bound(settings.quotas, self._upkeep.note)
        self._stopping = asyncio.Event()
        self._look = asyncio.Event()

    def wake(self) -> None:
        """A lease may be free: looks at once."""
        self._look.set()

    @property
    def settings(self) -> Settings:
        """By which messages are taken now."""
        return self._intake.settings

    async def reload(self, settings: Settings) -> None:
        """Takes the sources and customers of these settings from now on, on the sessions that live (ADR 40).

        First every session subscribes what is new beside what it holds, and only when all of them did the old
        is unsubscribed: a filter that goes from one partition to another is held by one of them at any time.
        Raises BrokerRefused and StoreError; then everything is as before.
        """
        async with self._reloading:
            await self._take(settings, self._moves)
            self._configured = settings

    async def _follow(self) -> None:
        """Takes the messages of customers that moved in, and no more those of customers that moved away,
        until cancelled. Beside the leases: the broker may take long to grant what is asked, and no lease
        waits for it.
        """
        while True:
            try:
                await self._look_who_moved()
                if not self._knows_moves:
                    self._knows_moves = True
                    self.wake()
            except StoreError as error:
                log.debug("ingest.leases_deferred", detail=str(error))
            await asyncio.sleep(self._lease_seconds / 3)

    async def _look_who_moved(self) -> None:
        """Whatever the configuration lists. Raises StoreError."""
        async with self._reloading:
            moves = await moving.moves(self._database)
            if moves == self._moves:
                return
            try:
                await self._take(self._configured, moves)
            except BrokerRefused as error:  # asked again: whoever moves a customer waits for its mark
                log.warning("ingest.move_deferred", detail=str(error))
                return
            self._moves = moves
            log.info("ingest.customers_moved", here=sorted(moves.here), away=sorted(moves.away))

    async def _take(self, configured: Settings, moves: Moves) -> None:
        customers = moves.among(configured.customers)
        settings = configured.model_copy(update={"customers": customers})
        before, wanted = self._intake, Intake.of(settings, self._introduce)
        own = before.settings
        if (own.telemetry.sources, own.customers, own.quotas) == (
            settings.telemetry.sources,
            settings.customers,
            settings.quotas,
        ):
            return
        self._next = wanted
        # until all is granted the sources in force come first, and the others take what only they match
        self._decoder = before.decoder(
            FormerIntake(
                sources=before.beside((*wanted.sources, *self._former.sources)),
                customers=self._former.customers,
            ),
            customers=settings.customers,
        )
        try:
            for number, (partition, _) in list(self._ours.items()):
                await partition.subscribe(wanted.filters(number), self._decoder)
        except (BrokerRefused, StoreError):
            await self._undo(before, wanted)
            raise
        self._former = self._left_by(before, wanted)
        await self._force(wanted)

    async def _undo(self, before: Intake, wanted: Intake) -> None:
        self._next, self._decoder = None, before.decoder()
        self._former = FormerIntake(
            sources=before.beside((*wanted.sources, *self._former.sources)), customers=self._former.customers
        )
        for number, (partition, _) in list(self._ours.items()):
            with suppress(BrokerRefused):  # what it had granted; the next connection asks again
                await partition.subscribe(before.filters(number), self._decoder)
        await self._force(before)

    async def _force(self, intake: Intake) -> None:
        self._intake, self._next, self._decoder = intake, None, intake.decoder()
        former = self._former
        overlapping = intake.decoder(former) if former.sources or former.customers else self._decoder
        self._bound(intake)
        for partition, _ in list(self._ours.values()):
            await partition.unsubscribe_former(overlapping, self._decoder)

    def _bound(self, intake: Intake) -> None:
        """Puts its quotas in force."""
        self._upkeep.reload(intake.settings.quotas)
        for number, (partition, _) in self._ours.items():
            partition.quotas.reload(intake.settings.quotas, intake.owner(number))
        if self._registry is not None:
            self._registry.bound(intake.settings.quotas, self._upkeep.note)

    def _fill(self, customers: frozenset[str]) -> None:
        self._full = customers
        for partition, _ in self._ours.values():
            partition.quotas.fill(customers)

    def _left_by(self, before: Intake, wanted: Intake) -> FormerIntake:
        """What only messages under filters that are unsubscribed can still need."""
        gone = {*before.settings.customers, *self._former.customers} - set(wanted.settings.customers)
        return FormerIntake(
            sources=wanted.beside((*before.sources, *self._former.sources)),
            # one partition has no filters of single customers: whoever is not listed is refused at once
            customers=frozenset(gone if wanted.settings.broker.partitions > 1 else ()),
        )

    def _settle(self) -> None:
        for partition, _ in self._ours.values():
            partition.settle()
        if self._next is None and all(partition.is_settled for partition, _ in self._ours.values()):
            self._former = FormerIntake()

    @property
    def connected(self) -> bool:
        """Whether every partition is served: by a live session of ours, or by another replica."""
        ours = all(partition.connected for partition, _ in self._ours.values())
        return ours and len(self._ours) + len(self._elsewhere) == self._settings.broker.partitions

    @property
    def listens(self) -> bool:
        """Whether a live session of ours takes in what devices send."""
        return bool(self._ours) and all(partition.connected for partition, _ in self._ours.values())

    async def attend(self) -> None:
        """Says, now and then, up to when all that devices sent is known, until cancelled. A break in it is
        time in which nobody listened: no device is silent for that.
        """
        while True:
            await asyncio.sleep(HEARD_SECONDS)
            now = clock.now_microseconds()
            written = now if self._registry is None else self._registry.complete_until(now)
            for number, (partition, _) in list(self._ours.items()):
                if (until := partition.heard_until(now)) is None:
                    continue
                at = from_microseconds(min(until, written))
                try:
                    await partition.note_heard(at, break_seconds=BREAK_SECONDS)
                except StoreError as error:
                    log.debug("ingest.hearing_not_noted", partition=number, detail=str(error))

    async def run(self) -> None:
        """Claims partitions and keeps their leases. The database away drops no session. Raises BrokerRefused,
        or what killed a partition.
        """
        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(self._upkeep.run(), name="quotas"),
                group.create_task(self._follow(), name="moves"),
            ]
            while not self._stopping.is_set():
                self._look.clear()
                self._settle()
                try:
                    if self._knows_moves:  # else a session would unsubscribe the filters of who moved in
                        await self._divide(group)
                        await self._note_up()
                except StoreError as error:
                    log.debug("ingest.leases_deferred", detail=str(error))
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._lease_seconds / 3):
                        await self._look.wait()
            for task in beside:
                task.cancel()

    async def stop(self) -> None:
        """Stops every session in order and gives the leases back."""
        self._stopping.set()
        self.wake()
        with suppress(StoreError):  # others take our share once we are not seen any more
            await presence.leave(self._database, self._replica, self._lease_seconds)
        for number in list(self._ours):
            await self._give_up(number)

    async def _note_up(self) -> None:
        if sessions := [up for partition, _ in self._ours.values() if (up := partition.up) is not None]:
            await store_sessions.note_up(self._database, sessions)

    async def _divide(self, group: asyncio.TaskGroup) -> None:
        count = self._settings.broker.partitions
        replicas = await presence.replicas_seen(self._database, self._replica, self._lease_seconds)
        share = -(-count // replicas)
        for number in range(count):
            held = number in self._ours
            if not held and len(self._ours) >= share:
                self._elsewhere.add(number)
                continue
            if held and len(self._ours) > share:
                await self._give_up(number)
                self._elsewhere.add(number)
                continue
            term = await leases.claim(self._database, f"ingest/{number}", self._replica, self._lease_seconds)
            if number in self._ours and self._ours[number][0].term != term:
                # also when it is ours again: what that session holds another replica may have stored since
                await self._lose(number)
            if term is None:
                self._elsewhere.add(number)
            elif number not in self._ours and not self._stopping.is_set():
                self._elsewhere.discard(number)
                self._serve(group, number, term)

    async def _lose(self, number: int) -> None:
        _, task = self._ours.pop(number)
        log.warning("ingest.partition_lost", partition=number)
        task.cancel()
        await asyncio.wait({task})

    def _serve(self, group: asyncio.TaskGroup, number: int, term: Term) -> None:
        intake = self._next or self._intake
        quotas = Quotas(self._intake.settings.quotas, owner=intake.owner(number))
        quotas.fill(self._full)
        partition = Partition(
            self._settings,
            self._database,
            self._decoder,
            number,
            intake.filters(number),
            term=term,
            pressure=self._pressure,
            registry=self._registry,
            quotas=quotas,
            upkeep=self._upkeep,
            tells_state=intake.tells_state(number),
        )
        self._ours[number] = (
            partition,
            group.create_task(self._run(number, partition), name=f"ingest partition {number}"),
        )
        log.info("ingest.partition_claimed", partition=number)

    async def _run(self, number: int, partition: Partition) -> None:
        """Ends with the term. What it had in hand is not acknowledged, so the broker gives it to the
        successor.
        """
        try:
            await partition.run()
        except LeaseLost:  # found by a commit; a claim may have found it, and said so, just before
            if number in self._ours and self._ours[number][0] is partition:
                del self._ours[number]
                self._elsewhere.add(number)
                log.warning("ingest.partition_lost", partition=number)

    async def _give_up(self, number: int) -> None:
        if number not in self._ours:
            return  # lost to another replica meanwhile
        partition, task = self._ours.pop(number)
        await partition.stop()
        task.cancel()
        await asyncio.wait({task})
        with suppress(StoreError):  # a lease that is not released runs out
            await leases.release(self._database, f"ingest/{number}", self._replica)
