"""Does to a stage what the plan says. Each fault ends by itself and undoes what it did; those of one server
take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg

from benchmarks.daemon import handles
from tests.soak import faults_at_work
from tests.soak.cutter import Mode
from tests.soak.load import Fleet
from tests.soak.oracle import Device, Ledger, Value, Window, reduce
from tests.soak.paused import Pause
from tests.soak.receivers import Answer
from tests.soak.shape import FAULTS, FLIPS, SECOND, Fault, Link, Shape, extra_rule
from tests.soak.stage import AWAY, Replica, Stage, stamp
from tests.soak.workplace import PLANT, SHOP, Workplace

LEASE_SECONDS = 2.0
MODES: tuple[Answer, ...] = ("429", "lost", "cut", "slow", "detached", "silent", "down", "503", "retry")

Act = Callable[["Faults", random.Random], Awaitable[None]]


class Faults:
    """The plan at work. `done` counts, `diary` says when and what, for whoever reads a finding."""

    def __init__(self, stage: Stage, fleet: Fleet, workplace: Workplace) -> None:
        self.stage, self.fleet, self.workplace = stage, fleet, workplace
        self.plant, self.shop = asyncio.Lock(), asyncio.Lock()
        """Of whoever does something to its system of records, and to its CMMS."""
        self.done: Counter[str] = Counter()
        self.diary: list[str] = []
        self.skipped: Counter[str] = Counter()
        self.pauses: list[Pause] = []
        self._modes = {name: asyncio.Lock() for name in (*stage.receivers, *stage.cutters)}
        self._work = {link.name: asyncio.Lock() for link in stage.shape.links}
        self._work |= {PLANT: self.plant, SHOP: self.shop}
        """By connection, of whoever has its work stopped or done again."""

    @property
    def shape(self) -> Shape:
        """Of the seed."""
        return self.stage.shape

    @property
    def names(self) -> list[str]:
        """Every connection, those of the workplace too."""
        return list(self._work)

    def say(self, text: str) -> None:
        """Into the diary."""
        self.diary.append(f"{stamp()} {text}")

    async def run(self) -> None:
        """Every fault at its time; returns when the last one is undone."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in self.shape.faults:
                await asyncio.sleep(max(0.0, fault.at - (time.monotonic() - began)))
                group.create_task(self._one(fault))

    async def _one(self, fault: Fault) -> None:
        try:
            await ACTS[fault.kind](self, random.Random(fault.seed))
        except (*AWAY, RuntimeError) as error:
            self.skipped[fault.kind] += 1
            self.say(f"{fault.kind} came to nothing: {type(error).__name__}: {str(error)[:200]}")
        else:
            self.done[fault.kind] += 1

    # replicas

    @asynccontextmanager
    async def replica(self, chance: random.Random, chosen: Replica | None = None) -> AsyncIterator[Replica]:
        """One that nobody else is doing something to."""
        free = [each for each in self.stage.replicas if not each.lock.locked()]
        found = chosen if chosen in free else chance.choice(free or self.stage.replicas)
        async with found.lock:
            yield found

    async def kill_replica(self, chance: random.Random) -> None:
        async with self.replica(chance) as replica:
            self.say(f"kill {replica.daemon.name}")
            await replica.kill()
            await asyncio.sleep(chance.choice((0.0, 0.5, 4.0)))
            await self.stage.start(replica)

    async def stop_replica(self, chance: random.Random) -> None:
        async with self.replica(chance) as replica:
            self.say(f"stop {replica.daemon.name}")
            # before its first line it is still the interpreter's: it ends by the signal, with nothing in hand
            is_up = replica.daemon.exit_code is None and handles(replica.daemon.pid, signal.SIGTERM)
            try:
                code = await replica.stop()
            except TimeoutError:
                code = -9
            if code and (is_up or code != -signal.SIGTERM):
                self.stage.ended.append(
                    f"{stamp()} {replica.daemon.name} ended with {code} at SIGTERM:"
                    f" {replica.daemon.log[-1200:]}"
                )
            await asyncio.sleep(chance.uniform(0.0, 2.0))
            await self.stage.start(replica)

    async def freeze_replica(self, chance: random.Random) -> None:
        async with self.replica(chance) as replica:
            await self._freeze(replica, chance.uniform(0.5, 4.0) * LEASE_SECONDS)

    async def freeze_busy(self, chance: random.Random) -> None:
        """Freezes whoever is in the midst of a backlog, so that it wakes up with values
        that are old by then.
        """
        link = chance.choice(self.shape.links)
        async with self._work[link.name]:
            await self._pause(link.name, chance.uniform(3.0, 6.0))
        await asyncio.sleep(chance.uniform(0.05, 0.6))
        async with self.replica(chance, await self.stage.holder()) as replica:
            await self._freeze(replica, chance.uniform(1.3, 3.0) * LEASE_SECONDS)

    async def _freeze(self, replica: Replica, seconds: float) -> None:
        self.say(f"freeze {replica.daemon.name} for {seconds:.1f} s")
        replica.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            replica.signal(signal.SIGCONT)
        self.say(f"{replica.daemon.name} goes on")

    async def freeze_computing(self, chance: random.Random) -> None:
        """Freezes a replica that has asked for the values of due windows; before it goes on they are
        corrected, and whoever takes over delivers that.
        """
        link = chance.choice(self.shape.links)
        async with self._modes[link.name], self.stage.servers["gateway"]:
            recent = self._recent(link.customer, chance, count=30)
            self._away(link, away=True)
            try:
                for device, at in recent:
                    await self.fleet.say(device, at, {"value": chance.randrange(-800, 800) / 8})
                await asyncio.sleep(chance.uniform(2.5, 4.0))
                async with self._locked("access exclusive") as locker:
                    self._away(link, away=False)
                    frozen = await self._freeze_waiting(locker, "from due_window", chance)
            finally:
                self._away(link, away=False)
            if frozen is None:
                raise RuntimeError("nobody computes")
            await self._correct_meanwhile(frozen, recent, chance)

    async def freeze_ingesting(self, chance: random.Random) -> None:
        """Freezes a replica that holds messages which it has not committed; whoever takes over commits them,
        and later ones of the same samples.
        """
        customer = chance.choice(self.shape.customers)
        async with self.stage.servers["gateway"]:
            recent = self._recent(customer, chance, count=30)
            async with self._locked("share") as locker:
                await self.fleet.say(*recent[0], {"value": chance.randrange(-800, 800) / 8})
                await asyncio.sleep(0.3)
                for device, at in recent:
                    await self.fleet.say(device, at, {"value": chance.randrange(-800, 800) / 8})
                await asyncio.sleep(0.3)
                frozen = await self._freeze_waiting(locker, "insert into telemetry", chance)
            if frozen is None:
                raise RuntimeError("nobody ingests")
            await self._correct_meanwhile(frozen, recent, chance)

    @asynccontextmanager
    async def _locked(self, mode: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """A session that locks the table of telemetry, for as short a time as a replica
        needs to wait for it.
        """
        locker = await asyncpg.connect(self.stage.dsn, timeout=10)
        try:
            async with locker.transaction():
                await locker.execute("set local lock_timeout = '5s'")
                await locker.execute(f"lock table telemetry in {mode} mode")
                yield locker
        finally:
            await locker.close(timeout=5)

    async def _freeze_waiting(
        self, locker: asyncpg.Connection[asyncpg.Record], of: str, chance: random.Random
    ) -> AsyncExitStack | None:
        """Stops the replica that waits for the lock; what is returned lets it go on."""
        until = time.monotonic() + 4.0
        while time.monotonic() < until:
            found = await self.stage.waiting(locker, of)
            if found is not None and not found.lock.locked():
                async with AsyncExitStack() as stack:
                    replica = await stack.enter_async_context(self.replica(chance, found))
                    self.say(f"freeze {replica.daemon.name}, which waits with {of}")
                    replica.signal(signal.SIGSTOP)
                    stack.callback(self.say, f"{replica.daemon.name} goes on")
                    stack.callback(replica.signal, signal.SIGCONT)
                    return stack.pop_all()
            await asyncio.sleep(0.02)
        return None

    async def _correct_meanwhile(
        self, frozen: AsyncExitStack, recent: Sequence[tuple[Device, int]], chance: random.Random
    ) -> None:
        async with frozen:
            for device, at in recent:
                await self.fleet.say(device, at, {"value": chance.randrange(-800, 800) / 8})
            await asyncio.sleep(LEASE_SECONDS * chance.uniform(1.5, 3.0) + 3.0)

    def _recent(self, customer: str, chance: random.Random, *, count: int) -> list[tuple[Device, int]]:
        """Samples of some age. Raises RuntimeError where there are none yet.

        None that may have been refused whole: with another metric the oracle would expect what was refused,
        too.
        """
        now, refusable = time.time_ns() // 1000, self.fleet.ledger.refusable
        found = [
            (device, at)
            for device, samples in self.fleet.ledger.samples.items()
            for at in samples
            if device[0] == customer
            and now - 60 * SECOND < at < now - 12 * SECOND
            and (device, at) not in refusable
        ]
        if not found:
            raise RuntimeError("there are no samples yet")
        return chance.sample(found, min(count, len(found)))

    def _away(self, link: Link, *, away: bool) -> None:
        if link.system == "postgres":
            self.stage.cutters[link.name].mode = "refused" if away else "well"
            self.stage.cutters[link.name].cut()
        else:
            self.stage.receivers[link.name].mode = "down" if away else "well"

    async def kill_during_push(self, chance: random.Random) -> None:
        """Kills whoever pushes, as its push arrives at a receiver: applied, and never recorded."""
        name = chance.choice(sorted(self.stage.receivers))
        receiver = self.stage.receivers[name]
        receiver.busy.clear()
        async with asyncio.timeout(20):
            await receiver.busy.wait()
        holder = await self.stage.holder()
        async with self.replica(chance, holder) as replica:
            self.say(f"kill {replica.daemon.name} as a push arrives at {name}")
            await replica.kill()
            await asyncio.sleep(chance.choice((0.0, 0.3)))
            await self.stage.start(replica)

    # servers

    async def broker_restart(self, chance: random.Random) -> None:
        async with self.stage.servers["broker"]:
            self.say("restart the broker")
            await self.stage.broker.stop()
            await asyncio.sleep(chance.uniform(0.0, 3.0))
            await self.stage.broker.start()

    async def broker_kill(self, chance: random.Random) -> None:
        """After it has saved and nothing is published: what it acknowledged, it has."""
        async with self.stage.servers["broker"]:
            self.fleet.resumed.clear()
            try:
                await self.fleet.flush()
                await self.stage.broker.save()
                self.say("kill the broker")
                await self.stage.broker.stop(signal.SIGKILL)
                await asyncio.sleep(chance.uniform(0.0, 3.0))
                await self.stage.broker.start()
            finally:
                self.fleet.resumed.set()

    async def database_restart(self, chance: random.Random) -> None:
        async with self.stage.servers["gateway"]:
            self.say("restart the gateway's database")
            await self.stage.gateway.stop()
            await asyncio.sleep(chance.uniform(0.0, 3.0))
            await self.stage.gateway.start()

    async def database_kill(self, chance: random.Random) -> None:
        async with self.stage.servers["gateway"]:
            self.say("kill the gateway's database")
            await self.stage.gateway.kill()
            await asyncio.sleep(chance.uniform(0.0, 3.0))
            await self.stage.gateway.start()

    async def sessions_killed(self, chance: random.Random) -> None:
        """Some of the gateway's sessions, at its database."""
        await self._end_sessions(self.stage.dsn, chance)

    async def sink_kill(self, chance: random.Random) -> None:
        async with self.stage.servers["sink"]:
            self.say("kill the systems' database")
            await self.stage.sink.kill()
            await asyncio.sleep(chance.uniform(0.0, 4.0))
            await self.stage.sink.start()

    async def database_read_only(self, chance: random.Random) -> None:
        async with self.stage.servers["gateway"]:
            await self._read_only(self.stage.dsn, chance)

    async def sink_read_only(self, chance: random.Random) -> None:
        async with self.stage.servers["sink"]:
            await self._read_only(chance.choice(sorted(self.stage.sink_databases.values())), chance)

    async def _read_only(self, dsn: str, chance: random.Random) -> None:
        """The whole cluster, as a primary that was demoted and promoted again."""
        self.say(f"read-only: the cluster of {dsn.rpartition('/')[2]}")
        connection = await asyncpg.connect(
            dsn, timeout=10, server_settings={"default_transaction_read_only": "off"}
        )
        try:
            await connection.execute("alter system set default_transaction_read_only = on")
            await connection.execute("select pg_reload_conf()")
            await asyncio.sleep(chance.uniform(0.5, 5.0))
        finally:
            await connection.execute("alter system reset default_transaction_read_only")
            await connection.execute("select pg_reload_conf()")
            await connection.close(timeout=5)

    async def sink_locked(self, chance: random.Random) -> None:
        """Somebody locks the table for longer than an answer is waited for, and whoever pushes may die
        meanwhile: its statement waits at the server, and is done when nobody thinks of it any more.
        """
        name = chance.choice(sorted(self.stage.sink_databases))
        async with self.stage.servers["sink"]:
            seconds = chance.uniform(0.5, 6.0)
            self.say(f"lock the table of {name} for {seconds:.1f} s")
            connection = await asyncpg.connect(self.stage.sink_databases[name], timeout=10)
            try:
                async with connection.transaction():
                    await connection.execute("lock table fieldgate_reading in share mode")
                    await asyncio.sleep(seconds / 2)
                    if chance.random() < 0.5:
                        async with self.replica(chance, await self.stage.holder()) as replica:
                            self.say(f"kill {replica.daemon.name}, whose statement may wait")
                            await replica.kill()
                            await self.stage.start(replica)
                    await asyncio.sleep(seconds / 2)
            finally:
                await connection.close(timeout=5)

    async def sink_sessions_killed(self, chance: random.Random) -> None:
        name = chance.choice(sorted(self.stage.sink_databases))
        for _ in range(chance.randint(1, 10)):
            await self._end_sessions(self.stage.sink_databases[name], chance)
            await asyncio.sleep(chance.uniform(0.0, 0.5))

    async def _end_sessions(self, dsn: str, chance: random.Random) -> None:
        self.say(f"end sessions at {dsn.rpartition('/')[2]}")
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            await connection.execute(
                """select pg_terminate_backend(pid) from pg_stat_activity
                where datname = current_database() and pid <> pg_backend_pid() and random() < $1""",
                chance.choice((0.3, 1.0)),
            )
        finally:
            await connection.close(timeout=5)

    async def sink_cut(self, chance: random.Random) -> None:
        name = chance.choice(sorted(self.stage.cutters))
        self.say(f"cut what leads to {name}, again and again")
        for _ in range(chance.randint(1, 25)):
            self.stage.cutters[name].cut()
            await asyncio.sleep(chance.uniform(0.01, 0.4))

    async def sink_lost(self, chance: random.Random) -> None:
        name = chance.choice(sorted(self.stage.cutters))
        async with self._modes[name]:
            await self._cutter(name, "lost", chance.uniform(1.0, 6.0))

    async def sink_hung(self, chance: random.Random) -> None:
        name = chance.choice(sorted(self.stage.cutters))
        async with self._modes[name]:
            await self._cutter(name, "hung", chance.uniform(0.5, 6.0))

    async def _cutter(self, name: str, mode: Mode, seconds: float) -> None:
        cutter = self.stage.cutters[name]
        self.say(f"{name}: {mode} for {seconds:.1f} s")
        cutter.mode = mode
        try:
            await asyncio.sleep(seconds)
        finally:
            cutter.cut()  # what was dropped cannot be said later: the session is of no more use
            cutter.mode = "well"

    # receivers

    async def receiver(self, chance: random.Random) -> None:
        name, mode = chance.choice(sorted(self.stage.receivers)), chance.choice(MODES)
        async with self._modes[name]:
            await self._receiver(name, mode, chance.uniform(1.0, 8.0))

    async def outage(self, chance: random.Random) -> None:
        """Every push is answered 500 while the probe is well, for longer than attempts last."""
        name = chance.choice(sorted(self.stage.receivers))
        async with self._modes[name]:
            await self._receiver(name, "500", chance.uniform(10.0, 25.0))

    async def denied(self, chance: random.Random) -> None:
        """Every push is answered 403 while the probe is well; then it is allowed again, and somebody asks for
        a look.
        """
        name = chance.choice(sorted(self.stage.receivers))
        async with self._modes[name]:
            await self._receiver(name, "403", chance.uniform(2.0, 8.0))
        status = await self.stage.insist(f"/v1/connections/{name}/recheck")
        self.say(f"recheck {name}: {status}")

    async def _receiver(self, name: str, mode: Answer, seconds: float) -> None:
        self.say(f"{name}: {mode} for {seconds:.1f} s")
        self.stage.receivers[name].mode = mode
        try:
            await asyncio.sleep(seconds)
        finally:
            self.stage.receivers[name].mode = "well"

    async def back_and_forth(self, chance: random.Random) -> None:
        """A reading is corrected, the push is done but its answer is lost, and the correction is taken back
        before anybody is told: what the gateway recorded and what is right are equal, what the system holds
        is neither.
        """
        link = chance.choice(self.shape.links)
        async with self._modes[link.name]:
            found = await self._settled(link, chance)
            if found is None:
                raise RuntimeError("nothing is settled")
            device, at, window, before = found
            other = float(before) + chance.choice((7.0, -7.0, 0.125))
            self.say(f"{link.name}: {window} from {before!r} to {other!r} and back, its answer lost")
            self._lose(link, lose=True)
            try:
                await self.fleet.say(device, at, {"value": other})
                arrived = await self._arrives(link, window, other, seconds=6.0)
                self.say(f"{link.name}: {window} {'holds' if arrived else 'does not hold'} {other!r}")
                await self.fleet.say(device, at, {"value": before})
                await asyncio.sleep(chance.uniform(0.0, 1.5))
            finally:
                self._lose(link, lose=False)

    def _lose(self, link: Link, *, lose: bool) -> None:
        if link.system == "postgres":
            cutter = self.stage.cutters[link.name]
            if not lose:
                cutter.cut()
            cutter.mode = "lost" if lose else "well"
        else:
            self.stage.receivers[link.name].mode = "lost" if lose else "well"

    async def _settled(
        self, link: Link, chance: random.Random
    ) -> tuple[tuple[str, str], int, Window, Value] | None:
        """A sample of some age whose reading the system holds as it is right."""
        held = (await self.stage.held(link)).values
        ledger: Ledger = self.fleet.ledger
        now = time.time_ns() // 1000
        name = chance.choice(("each", "each", "last"))
        rule = next(rule for rule in link.rules if rule.name == name)
        devices = [device for device in ledger.samples if device[0] == link.customer]
        chance.shuffle(devices)
        for device in devices:
            samples = ledger.samples[device]
            times = [at for at in samples if now - 90 * SECOND < at < now - 15 * SECOND]
            chance.shuffle(times)
            for at in times:
                value = samples[at].get("value")
                window = (f"{device[1]}/{rule.name}", rule.start(at))
                same = [
                    (each, samples[each]["value"])
                    for each in sorted(samples)
                    if rule.start(each) == window[1] and "value" in samples[each]
                ]
                if (
                    value is not None
                    and same
                    and same[-1][0] == at
                    and held.get(window) == reduce("last", same) == value
                ):
                    return device, at, window, value
        return None

    async def _arrives(self, link: Link, window: Window, value: Value, *, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with contextlib.suppress(*AWAY):
                if (await self.stage.held(link)).values.get(window) == value:
                    return True
            await asyncio.sleep(0.1)
        return False

    # people

    async def reload(self, chance: random.Random) -> None:
        await self._reload(chance.choice(self.shape.links), chance)

    async def reload_broken(self, chance: random.Random) -> None:
        """A faulty file, and the right one a moment later."""
        async with self.stage.files:
            for replica in self.stage.replicas:
                if replica.is_wanted:  # one that starts would read it, and rightly end
                    await replica.daemon.ready(15)
            self.say("reload a file that is broken")
            await self.stage.declare(broken=True)
            await asyncio.sleep(chance.uniform(0.2, 1.5))
            await self.stage.declare()

    async def _reload(self, link: Link, chance: random.Random) -> None:
        async with self.stage.files:
            if chance.random() < 0.25:
                rule = extra_rule(chance)
                link.extend(rule)
                self.say(f"reload: {link.name} has {rule.name}")
            elif chance.random() < 0.9:
                to = chance.choice(FLIPS)
                link.flip(to)
                self.say(f"reload: {link.name}/flip is {to}")
            else:
                self.say("reload what is there")
            await self.stage.declare()

    async def pause(self, chance: random.Random) -> None:
        name = chance.choice(self.names)
        async with self._work[name]:
            await self._pause(name, chance.uniform(1.0, 8.0))

    async def pause_and_reload(self, chance: random.Random) -> None:
        """Meters that change while the connection is paused are in force after it."""
        link = chance.choice(self.shape.links)
        async with self._work[link.name]:
            await self._pause(
                link.name, chance.uniform(1.0, 5.0), meanwhile=lambda: self._reload(link, chance)
            )

    async def _pause(
        self, name: str, seconds: float, *, meanwhile: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        status = await self.stage.insist(f"/v1/connections/{name}/pause")
        began, is_paused = time.monotonic(), status in range(200, 300)
        self.say(f"pause {name} for {seconds:.1f} s: {status}")
        try:
            await asyncio.sleep(seconds / 2)
            if meanwhile is not None:
                await meanwhile()
            await asyncio.sleep(seconds / 2)
        finally:
            if is_paused:
                self.pauses.append(Pause(connection=name, begin=began, end=time.monotonic()))
            status = await self.stage.insist(f"/v1/connections/{name}/resume")
            self.say(f"resume {name}: {status}")

    async def full_sync(self, chance: random.Random) -> None:
        name = chance.choice(self.names)
        status = await self.stage.insist(f"/v1/connections/{name}/sync", {"mode": "full"}, seconds=10)
        self.say(f"full sync of {name}: {status}")

    async def replay(self, chance: random.Random) -> None:
        link = chance.choice(self.shape.links)
        async with self._work[link.name]:
            self.stage.replayed.setdefault(link.name, {}).update(await self.stage.dead_letters(link))
            status = await self.stage.insist(
                f"/v1/connections/{link.name}/dead-letters/replay", {}, seconds=10
            )
            self.say(f"replay the dead letters of {link.name}: {status}")


ACTS: dict[str, Act] = {
    kind: getattr(faults_at_work, kind, None) or getattr(Faults, kind) for kind, _ in FAULTS
}
