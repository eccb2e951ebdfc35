"""The ingest service divides the partitions between replicas by leases, and runs those that this replica
holds.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from gateway import clock
from gateway.ingest.decode import FormerIntake, ignore_device
from gateway.ingest.intake import Intake
from gateway.ingest.partition import Partition
from gateway.ingest.quotas import Quotas
from gateway.ingest.registry import Registry
from gateway.ingest.upkeep import QuotaUpkeep
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
"""Where more time than this passes between two notes that a partition was listened to, nobody listened."""


class Ingest:
    """Takes telemetry from MQTT and commits it. `run` works until it is cancelled; `stop` ends it, and
    commits what is in hand before. `reload` changes what is taken while it runs.
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
        """`database` should be used by nobody else, so that commits wait for no other work. `pressure` is
        told how long acknowledgements take, `registry` which devices sent something.
        """
        self._pressure = pressure
        self._registry = registry
        self._settings = settings
        self._database = database
        self._replica = replica
        self._lease_seconds = settings.sync.lease.total_seconds()
        self._introduce = ignore_device if registry is None else registry.introduce
        self._configured = settings
        """As they were read. `settings` has the customers that moved in besides, without those that moved
        away.
        """
        self._moves = Moves()
        self._knows_moves = False
        self._reloading = asyncio.Lock()
        self._intake = Intake.of(settings, self._introduce)
        self._next: Intake | None = None
        """The intake that is being subscribed beside the one in force; None while no change is under way."""
        self._former = FormerIntake()
        self._decoder = self._intake.decoder()
        self._ours: dict[int, tuple[Partition, asyncio.Task[None]]] = {}
        """The partitions of this replica, by number, each with the task that runs it."""
        self._elsewhere: set[int] = set()
        self._upkeep = QuotaUpkeep(settings.quotas, database, self._set_full)
        self._full: frozenset[str] = frozenset()
        if registry is not None:
            registry.limit_metrics(settings.quotas, self._upkeep.add_excess)
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Looks for free leases at once."""
        self._wake.set()

    @property
    def settings(self) -> Settings:
        """The settings by which messages are taken now."""
        return self._intake.settings

    async def reload(self, settings: Settings) -> None:
        """Takes in by these settings from now on, without ending a session (ADR 40).

        First every session subscribes what is new beside what it holds. Only when all of them have done so,
        what is old is unsubscribed: so a filter that goes from one partition to another is held by one of
        them at any time. Raises BrokerRefused and StoreError; then everything is as before.
        """
        async with self._reloading:
            await self._change_intake(settings, self._moves)
            self._configured = settings

    async def _follow_moves(self) -> None:
        """Until cancelled: takes the messages of customers that moved in, and those of customers that moved
        away no more. A task of its own, for the broker may take long to grant a filter, and no lease may wait
        for it.
        """
        while True:
            try:
                await self._apply_moves()
                if not self._knows_moves:
                    self._knows_moves = True
                    self.wake()
            except StoreError as error:
                log.debug("ingest.leases_deferred", detail=str(error))
            await asyncio.sleep(self._lease_seconds / 3)

    async def _apply_moves(self) -> None:
        """Makes the customers that are taken those of the configuration, with who moved in and without who
        moved away. Raises StoreError.
        """
        async with self._reloading:
            moves = await moving.moves(self._database)
            if moves == self._moves:
                return
            try:
                await self._change_intake(self._configured, moves)
            except BrokerRefused as error:  # tried again, while whoever moves the customer waits for its mark
                log.warning("ingest.move_deferred", detail=str(error))
                return
            self._moves = moves
            log.info("ingest.customers_moved", here=sorted(moves.here), away=sorted(moves.away))

    async def _change_intake(self, configured: Settings, moves: Moves) -> None:
        customers = moves.among(configured.customers)
        settings = configured.model_copy(update={"customers": customers})
        before = self._intake
        if _taken_by(before.settings) == _taken_by(settings):
            return
        wanted = Intake.of(settings, self._introduce)
        self._next = wanted
        # Until every filter is granted the sources in force come first. New sources take what only they
        # match.
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
            await self._undo_change(before, wanted)
            raise
        self._former = self._former_intake(before, wanted)
        await self._put_in_force(wanted)

    async def _undo_change(self, before: Intake, wanted: Intake) -> None:
        self._next = None
        self._decoder = before.decoder()
        self._former = FormerIntake(
            sources=before.beside((*wanted.sources, *self._former.sources)), customers=self._former.customers
        )
        for number, (partition, _) in list(self._ours.items()):
            with suppress(BrokerRefused):  # of filters that it had granted; the next connection asks again
                await partition.subscribe(before.filters(number), self._decoder)
        await self._put_in_force(before)

    async def _put_in_force(self, intake: Intake) -> None:
        self._intake = intake
        self._next = None
        self._decoder = intake.decoder()
        former = self._former
        overlapping = intake.decoder(former) if former.sources or former.customers else self._decoder
        self._apply_quotas(intake)
        for partition, _ in list(self._ours.values()):
            await partition.unsubscribe_former(overlapping, self._decoder)

    def _apply_quotas(self, intake: Intake) -> None:
        """Puts the quotas of the intake in force."""
        self._upkeep.reload(intake.settings.quotas)
        for number, (partition, _) in self._ours.items():
            partition.quotas.reload(intake.settings.quotas, intake.owner(number))
        if self._registry is not None:
            self._registry.limit_metrics(intake.settings.quotas, self._upkeep.add_excess)

    def _set_full(self, customers: frozenset[str]) -> None:
        self._full = customers
        for partition, _ in self._ours.values():
            partition.quotas.set_full(customers)

    def _former_intake(self, before: Intake, wanted: Intake) -> FormerIntake:
        """Sources and customers that only messages for unsubscribed filters still need."""
        gone = {*before.settings.customers, *self._former.customers} - set(wanted.settings.customers)
        return FormerIntake(
            sources=wanted.beside((*before.sources, *self._former.sources)),
            # A single partition has no filters of single customers: one that is not listed is refused at
            # once.
            customers=frozenset(gone if wanted.settings.broker.partitions > 1 else ()),
        )

    def _settle_partitions(self) -> None:
        """Forgets what was configured before, once no partition needs it any more."""
        for partition, _ in self._ours.values():
            partition.settle()
        if self._next is None and all(partition.is_settled for partition, _ in self._ours.values()):
            self._former = FormerIntake()

    @property
    def connected(self) -> bool:
        """Whether every partition is served, by a live session of this replica or by another replica."""
        ours = all(partition.connected for partition, _ in self._ours.values())
        return ours and len(self._ours) + len(self._elsewhere) == self._settings.broker.partitions

    @property
    def is_listening(self) -> bool:
        """Whether this replica holds partitions, and each of them has a live session."""
        return bool(self._ours) and all(partition.connected for partition, _ in self._ours.values())

    async def note_hearing(self) -> None:
        """Until cancelled: notes every few seconds up to when all that devices sent is known. Time that is
        missing between two notes is time in which nobody listened, and is no silence of a device.
        """
        while True:
            await asyncio.sleep(HEARD_SECONDS)
            now = clock.now_microseconds()
            written = now if self._registry is None else self._registry.complete_until(now)
            for number, (partition, _) in list(self._ours.items()):
                until = partition.heard_until(now)
                if until is None:
                    continue
                at = from_microseconds(min(until, written))
                try:
                    await partition.note_heard(at, break_seconds=BREAK_SECONDS)
                except StoreError as error:
                    log.debug("ingest.hearing_not_noted", partition=number, detail=str(error))

    async def run(self) -> None:
        """Claims partitions and keeps their leases. Sessions stay up while the database is away. Raises
        BrokerRefused, or the error that ended a partition.
        """
        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(self._upkeep.run(), name="quotas"),
                group.create_task(self._follow_moves(), name="moves"),
            ]
            while not self._stopping.is_set():
                self._wake.clear()
                self._settle_partitions()
                try:
                    if (
                        self._knows_moves
                    ):  # else a session would unsubscribe filters of customers that moved in
                        await self._divide_partitions(group)
                        await self._note_live_sessions()
                except StoreError as error:
                    log.debug("ingest.leases_deferred", detail=str(error))
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._lease_seconds / 3):
                        await self._wake.wait()
            for task in beside:
                task.cancel()

    async def stop(self) -> None:
        """Stops every session in good order, and releases the leases."""
        self._stopping.set()
        self.wake()
        with suppress(StoreError):  # else others take our share when we have not been seen for a while
            await presence.leave(self._database, self._replica, self._lease_seconds)
        for number in list(self._ours):
            await self._give_up(number)

    async def _note_live_sessions(self) -> None:
        sessions = [partition.live_session for partition, _ in self._ours.values()]
        live = [session for session in sessions if session is not None]
        if live:
            await store_sessions.note_up(self._database, live)

    async def _divide_partitions(self, group: asyncio.TaskGroup) -> None:
        """Claims free partitions up to this replica's share, renews the leases of those that it holds, and
        gives up what it holds beyond its share.
        """
        count = self._settings.broker.partitions
        replicas = await presence.replicas_seen(self._database, self._replica, self._lease_seconds)
        share = -(-count // replicas)  # rounded up, so that every partition has somebody
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
                # Also where a new term of it is ours: another replica may have stored since what it has in
                # hand.
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
        quotas.set_full(self._full)
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
        """Runs a partition until its term ends. What it had in hand is not acknowledged, so the broker sends
        it to the successor.
        """
        try:
            await partition.run()
        except LeaseLost:  # a commit found it; where a claim found it just before, that has logged it
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


def _taken_by(settings: Settings) -> tuple[object, ...]:
    """The settings that decide what is taken in: where they are equal a reload changes nothing."""
    return settings.telemetry.sources, settings.customers, settings.quotas
