"""Moves a customer from one gateway to another under load, step by step. Each step can be interrupted and
done again; none needs the other gateway's database.

1. The destination expects the customer: it takes the customer's messages beside the source, into its own log.
2. The source exports it: a mark behind everything that was queued for the source alone has come and is
   committed; whatever works on the customer ends; one transaction takes it out of force. What comes to the
   source after that it drops, for it has come to the destination too.
3. The destination imports it: rows beside what came meanwhile, credentials sealed anew, then all of it is in
   force by one transaction.
4. The source forgets it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway import clock
from gateway.cells import archive
from gateway.cells.archive import Header
from gateway.cells.seals import Seals
from gateway.credentials.vault import Vault
from gateway.events.marking import mark
from gateway.model.errors import RequestRefused
from gateway.model.moving import MoveStage, code, move_of, shared, topics
from gateway.model.topics import Source, partition_of
from gateway.payloads.sources import compile_sources, only
from gateway.settings import Settings
from gateway.store import arriving, moving, silence
from gateway.store.arriving import Cut
from gateway.store.moving import DEPARTED, Move
from gateway.store.pool import Database

LOOK_SECONDS = 0.3
MARK_SECONDS = 2.0
"""Between two marks of a subscription that may not be there yet: one that came before it is lost."""

ROUTES_SECONDS = 1.0
"""How long the nodes of a clustered broker take, at most, to tell each other of a subscription."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """`arrived`: what the source is told before it forgets the customer."""

    arrived: str
    samples: int


class Mover:
    """Of one gateway. `say` is told what is waited for."""

    def __init__(
        self, settings: Settings, database: Database, *, wait_seconds: float, say: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._database = database
        self._wait_seconds = wait_seconds
        self._say = say
        self._keys = [key.get_secret_value() for key in settings.security.encryption_keys]
        self._sources: tuple[Source, ...] = only(compile_sources(settings.telemetry.sources))

    async def expect(self, customer: str) -> str:
        """Returns the code that the source is told, once the gateway takes the customer's messages. Raises
        RequestRefused where it has the customer already, or nobody serves.
        """
        self._topics(customer, "")
        async with self._database.transaction() as connection:
            held = await moving.read(connection, customer)
            if held is None and await moving.lock_connections(connection, customer):
                raise _refused(f"customer {customer!r} has connections here: it is here already")
            if held is not None and held.stage in {MoveStage.ARRIVED, MoveStage.LEAVING}:
                raise _refused(f"customer {customer!r} is in force here already")
            if held is not None and held.cancelled is not None:
                raise _refused(
                    f"an expectation of {customer!r} is being cancelled:"
                    f" `fieldgate customer cancel {customer}` goes on with it"
                )
            if held is not None and held.stage is MoveStage.EXPECTED:
                move = held.move
            else:
                move = secrets.token_hex(4)
                # of all numbers that a log has had anywhere this is later: it counts commits, of which no
                # gateway makes a million a second
                await moving.expect(connection, customer, move, clock.now_microseconds())
        await self._seen(customer, self._topics(customer, f"{move}e"), again=True)
        await asyncio.sleep(ROUTES_SECONDS)
        return code(MoveStage.EXPECTED, customer, move)

    async def export(self, customer: str, path: Path, expected: str, key: str) -> int:
        """Takes the customer out of force and writes its archive; of one that has left by this move, the
        archive once more. Returns how many connections went. Raises RequestRefused, BrokerRefused and
        SealBroken.
        """
        move = move_of(expected, MoveStage.EXPECTED, customer)
        if move is None:
            raise _refused(
                f"{expected!r} is not what `fieldgate customer expect {customer}` printed at the destination"
            )
        marked = self._topics(customer, f"{move}x")
        async with self._database.transaction() as connection:
            held = await moving.read(connection, customer)
            if held is not None and held.stage is MoveStage.GONE:
                raise _refused(f"customer {customer!r} is not here: it has moved, and was forgotten")
            if held is not None and held.stage is MoveStage.EXPECTED and held.move == move:
                raise _refused(f"customer {customer!r} is expected here: export it at the other gateway")
            has_left = held is not None and held.stage is MoveStage.LEFT
            if held is not None and has_left and held.move != move:
                raise _refused(
                    f"customer {customer!r} has left by another move: `fieldgate customer forget` it first"
                )
            # one that is leaving already may be one that is expected itself
            is_whole = held is None or (
                held.is_whole if held.stage is MoveStage.LEAVING else held.stage is not MoveStage.EXPECTED
            )
            if not has_left:
                if not is_whole and await moving.has_departed(connection, customer):
                    raise _refused(f"customer {customer!r} comes back here: import it first")
                await moving.begin_leaving(connection, customer, move, is_whole=is_whole)
        if not has_left:
            await self._leave(customer, move, marked, is_whole=is_whole)
        return await self._write(customer, move, marked[-1], path, key)

    async def _leave(self, customer: str, move: str, marked: list[str], *, is_whole: bool) -> None:
        self._say("waiting until what was queued here is stored")
        positions = await self._seen(customer, marked, again=False)
        owner = f"mover/{secrets.token_hex(4)}"
        try:
            await self._quiet(customer, owner)
            async with self._database.transaction() as connection:
                await moving.require(connection, customer, MoveStage.LEAVING, move)
                await moving.take_out_of_force(
                    connection, customer, move, positions[marked[-1]], is_whole=is_whole
                )
        except BaseException:
            async with self._database.transaction() as connection:
                await moving.release(connection, customer, owner)
            raise

    async def _quiet(self, customer: str, owner: str) -> None:
        """Returns when nobody works on anything of the customer and nothing can begin."""
        self._say("waiting until runs, logons and calls of the customer end")
        until = clock.monotonic() + self._wait_seconds
        while not (busy := await moving.hold(self._database, customer, owner)).is_over:
            if clock.monotonic() > until:
                raise _refused(
                    f"something of {customer!r} is still worked on ({busy}); nothing was taken away: the same"
                    " command goes on, with a longer --wait where a run takes long"
                )
            await asyncio.sleep(LOOK_SECONDS)

    async def _write(self, customer: str, move: str, cut_topic: str, path: Path, key: str) -> int:
        self._say("writing the archive")
        async with self._database.pinned(silent_seconds=600.0) as session:
            async with session.transaction():
                held = await moving.read(session, customer)
                assert held is not None and held.stage is MoveStage.LEFT
            header = Header(
                format=archive.FORMAT,
                customer=customer,
                move=move,
                instance=self._settings.instance,
                topic_root=self._settings.broker.topic_root,
                brokers=list(self._settings.broker.urls),
                position=held.position,
                cut=held.cut,
                cut_topic=cut_topic,
                is_whole=held.is_whole,
                columns={},
            )
            await archive.write(path, session, header, Seals(Vault([key, *self._keys])))
            count: int = await session.fetchval(
                f"select count(*) from {DEPARTED}connection where customer_id = $1", customer
            )
        return count

    async def import_(self, path: Path, key: str) -> Imported:
        """Puts the customer in force. Raises RequestRefused, CreditsInsufficient, SealBroken; then nothing of
        it is, and it can be done again.
        """
        header = archive.header_of(path)
        customer = header.customer
        async with self._database.transaction() as connection:
            held = await moving.read(connection, customer)
        arrived = code(MoveStage.ARRIVED, customer, header.move)
        if held is not None and held.stage is MoveStage.ARRIVED and held.move == header.move:
            return Imported(arrived=arrived, samples=0)
        if held is None or held.stage is not MoveStage.EXPECTED or held.move != header.move:
            raise _refused(
                f"{path}: customer {customer!r} is not expected here by this move; the archive belongs where"
                f" `fieldgate customer expect {customer}` printed the code that it was exported with"
            )
        if header.position >= held.position:
            raise _refused(f"the log of {customer!r} is further there than here: is a clock far off?")
        if header.topic_root == self._settings.broker.topic_root and self._meets(header):
            raise _refused(
                f"both gateways tell below {header.topic_root!r} of one broker, where the source empties what"
                " this one would retain: give each cell a broker.topic_root of its own"
            )
        cut = await self._cut(header, held)
        seals = Seals(Vault([*self._keys, key]))
        async with self._database.pinned(silent_seconds=600.0) as session:
            self._say("reading the archive")
            async with archive.read(path, session, header, seals):
                await arriving.check_free(session, customer)
                samples = await arriving.merge_telemetry(self._database, session, customer, header.move, cut)
                await arriving.make_days(self._database, session)
                self._say("putting it in force")
                unheard = await self._unheard(customer)
                async with session.transaction():
                    await moving.require(session, customer, MoveStage.EXPECTED, header.move)
                    await arriving.replace_large(session, customer)
                    # after it: what took one of the names meanwhile gets back what it had
                    await arriving.check_free(session, customer)
                    prefixes = [arriving.INCOMING]
                    if not header.is_whole and await moving.has_departed(session, customer):
                        # it was never in force elsewhere: what is kept here is the latest
                        prefixes = [DEPARTED, arriving.INCOMING]
                    for prefix in prefixes:
                        await arriving.put(
                            session, customer, prefix, unheard=unheard, settings=self._settings.credits
                        )
                    await moving.arrive(session, customer, header.move)
        return Imported(arrived=arrived, samples=samples)

    async def _unheard(self, customer: str) -> float:
        """The clock by which devices of the customer are silent here."""
        partitions = self._settings.broker.partitions
        heard = await silence.heard(self._database, partitions)
        found = heard.get(partition_of(customer, partitions))
        return 0.0 if found is None else found.unheard

    def _meets(self, header: Header) -> bool:
        return not {*header.brokers}.isdisjoint(self._settings.broker.urls)

    async def _cut(self, header: Header, held: Move) -> Cut | None:
        """None where the source's mark does not come here: the gateways have no broker in common."""
        if header.cut is None:
            return None
        until = clock.monotonic() + (self._wait_seconds if self._meets(header) else ROUTES_SECONDS)
        while True:
            marks = await moving.marks(self._database, header.customer)
            if (here := marks.get(header.cut_topic)) is not None:
                return Cut(source=header.cut, begun=held.position, here=here)
            if clock.monotonic() > until:
                break
            await asyncio.sleep(LOOK_SECONDS)
        if self._meets(header):
            raise _refused(
                "the mark that the source sent has not come here yet: does this gateway run, and read from"
                f" {', '.join(self._settings.broker.urls)}? The same command goes on"
            )
        return None

    async def forget(self, customer: str, arrived: str) -> None:
        """Removes what the source kept. Raises RequestRefused where the destination did not say so."""
        async with self._database.transaction() as connection:
            held = await moving.read(connection, customer)
        if held is not None and held.stage is MoveStage.GONE:
            return
        if held is None or held.stage is not MoveStage.LEFT:
            raise _refused(f"customer {customer!r} has not left this gateway")
        if move_of(arrived, MoveStage.ARRIVED, customer) != held.move:
            raise _refused(
                f"{arrived!r} is not what `fieldgate customer import` printed at the destination: as long as"
                f" {customer!r} is not in force there, what is kept here is all there is"
            )
        await moving.forget(self._database, customer)

    async def cancel(
        self, customer: str, cancelled: str | None, *, expected: str | None = None, discard: bool = False
    ) -> str:
        """Ends a move that has taken nothing away yet, at the source first: returns the code that the
        destination is told, with `expected` also where no export has begun. `discard`: what came to the
        destination while it was expected may be lost. Raises RequestRefused where the customer has left.
        """
        async with self._database.transaction() as connection:
            held = await moving.read(connection, customer)
            if held is not None and held.stage is MoveStage.LEAVING:
                await moving.release(connection, customer, None)
                await moving.stay(connection, customer)
                return code(MoveStage.LEAVING, customer, held.move)
            is_here = (
                held.stage is MoveStage.ARRIVED
                if held is not None
                else customer in self._settings.customers
                or bool(await moving.lock_connections(connection, customer))
            )
        if held is not None and held.cancelled is not None:
            await moving.forget(self._database, customer)
            return code(MoveStage.EXPECTED, customer, held.cancelled)
        if expected is not None and is_here:
            move = move_of(expected, MoveStage.EXPECTED, customer)
            if move is not None and (held is None or held.move != move):
                return code(MoveStage.LEAVING, customer, move)
        if held is None or held.stage is not MoveStage.EXPECTED:
            raise _refused(
                f"customer {customer!r} is not about to move; one that has left comes back by a move in the"
                " other direction, and where no export has begun, `--expected` with the code of the"
                " destination says so"
            )
        # no mark of the source would show that it has begun, where each gateway has a broker of its own
        if cancelled is None or move_of(cancelled, MoveStage.LEAVING, customer) != held.move:
            raise _refused(
                f"the other gateway may have begun to export {customer!r}: cancel there first, and give the"
                " code that it prints with --cancelled; where it has left, import it"
            )
        async with self._database.connection() as connection:
            if await moving.has_departed(connection, customer):
                raise _refused(f"customer {customer!r} comes back: export it at the other gateway")
        await moving.cancel_expected(self._database, customer, held.move, discard=discard)
        return code(MoveStage.EXPECTED, customer, held.move)

    def _topics(self, customer: str, move: str) -> list[str]:
        if common := shared(self._sources):
            raise _refused(
                f"telemetry.sources: messages of {common[0]!r} are of several customers, and cannot be"
                " divided between gateways; a customer that moves has topics of its own"
            )
        found = topics(self._sources, customer, move)
        if not found:
            raise _refused(
                f"telemetry.sources: no topic of {customer!r} has a field such as {{device}}, which a mark"
                " needs"
            )
        return found

    async def _seen(self, customer: str, wanted: list[str], *, again: bool) -> dict[str, int]:
        """Where the log ended at each of these marks, once all were seen. `again`: they are sent until then,
        for what comes before the subscription is lost.
        """
        until, sent_at = clock.monotonic() + self._wait_seconds, -MARK_SECONDS
        while True:
            seen = await moving.marks(self._database, customer)
            if all(topic in seen for topic in wanted):
                return seen
            now = clock.monotonic()
            if now > until:
                raise _refused(
                    f"no mark came back within {self._wait_seconds:g} s: does the gateway run, and take what"
                    f" is published to {wanted[0]}? Nothing has changed; the same command goes on"
                )
            if sent_at < 0 or (again and now - sent_at > MARK_SECONDS):
                await mark(self._settings.broker, [topic for topic in wanted if topic not in seen])
                sent_at = now
            await asyncio.sleep(LOOK_SECONDS)


def _refused(text: str) -> RequestRefused:
    return RequestRefused("request.conflict", text)
