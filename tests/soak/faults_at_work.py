"""What is done to the workplace, and to the disk of the gateway's database. Each fault ends by itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
from datetime import timedelta
from typing import TYPE_CHECKING

from benchmarks.servers import wait_until
from tests.soak.source import Mood
from tests.soak.stage import AWAY
from tests.soak.workplace import PLANT, SHOP

if TYPE_CHECKING:
    from tests.soak.faults import Faults

MOODS: tuple[Mood, ...] = ("503", "429", "lost", "cut", "slow")
AHEAD = (timedelta(seconds=90), timedelta(minutes=10), timedelta(hours=5), timedelta(days=400))
BEHIND = (timedelta(seconds=30), timedelta(minutes=10), timedelta(hours=20))


async def plant(faults: Faults, chance: random.Random) -> None:
    """The system of records is slow, fails, or its answers are lost."""
    source, seconds = faults.workplace.source, chance.uniform(1.0, 8.0)
    async with faults.plant:
        mood = chance.choice(MOODS)
        faults.say(f"the plant: {mood} for {seconds:.1f} s")
        source.mood = mood
        try:
            await asyncio.sleep(seconds)
        finally:
            source.mood = "well"


async def plant_clock(faults: Faults, chance: random.Random) -> None:
    """Its clock jumps, forward or back, and later is right again.

    What changed meanwhile shows a time that was read long ago, or that nobody asks for yet. That somebody has
    to read before the clock is right: afterwards nothing tells of it. Where nobody could, people save it again.
    """
    work, source = faults.workplace, faults.workplace.source
    async with faults.plant:
        by = chance.choice((*AHEAD, *(-each for each in BEHIND)))
        faults.say(f"the plant's clock jumps by {by}")
        before, source.ahead = source.changes, by
        try:
            await asyncio.sleep(chance.uniform(2.0, 8.0))
            work.is_still.set()
            with contextlib.suppress(TimeoutError):
                await wait_until(work.is_read, what="what changed is read", seconds=5, every=0.3)
            is_read = work.is_read()
        finally:
            source.ahead = timedelta(0)
            work.is_still.clear()
        faults.say(f"the plant's clock is right; what changed was {'read' if is_read else 'not read'}")
        if not is_read:
            source.save_again(before)


async def tokens_end(faults: Faults, _: random.Random) -> None:
    """Every access token of the plant is of no use, long before its time."""
    faults.say("the plant's access tokens end")
    faults.workplace.source.grants.end_access()


async def grant_revoked(faults: Faults, _: random.Random) -> None:
    """The plant's, for good, until a person gives another."""
    async with faults.plant:
        await _revoke(faults, PLANT)


async def key_revoked(faults: Faults, _: random.Random) -> None:
    """The CMMS's, until a person gives another."""
    async with faults.shop:
        await _revoke(faults, SHOP)


async def _revoke(faults: Faults, name: str) -> None:
    work = faults.workplace
    faults.say(f"what the gateway has of {name} is revoked")
    work.revoke(name)
    await wait_until(lambda: not work.is_revoked(name), what="somebody gave something else", seconds=40)


async def shop(faults: Faults, chance: random.Random) -> None:
    """The CMMS loses answers, cuts, fails, and is slow for a while."""
    proxy, switches = faults.workplace.proxy, faults.workplace.cmms.switches
    async with faults.shop:
        struck = chance.choices(
            ("cut", "cut_after", "502_after", "late", "503", "429"), k=chance.randint(1, 12)
        )
        switches.slow_seconds = chance.choice((0.0, 0.0, 0.4, 1.5))
        faults.say(f"the CMMS: {', '.join(struck)}; slow by {switches.slow_seconds} s")
        proxy.faults.extend(struck)  # type: ignore[arg-type]
        try:
            await asyncio.sleep(chance.uniform(1.0, 6.0))
        finally:
            switches.slow_seconds = 0.0


async def disk_full(faults: Faults, chance: random.Random) -> None:
    """Of the gateway's database, on a disk of its own; a server that ended by it is started when there is room."""
    disk, stage = faults.stage.disk, faults.stage
    async with stage.servers["gateway"]:
        seconds = chance.uniform(1.0, 6.0)
        with disk.full():
            faults.say(f"the disk of the gateway's database is full for {seconds:.1f} s")
            await asyncio.sleep(seconds)
        faults.say("there is room on the disk")

        async def answers() -> bool:
            with contextlib.suppress(*AWAY):
                await stage.fetch("select 1")
                return True
            return stage.gateway.has_ended

        await wait_until(answers, what="the database answers, or has ended", seconds=20, every=0.2)
        if stage.gateway.has_ended:
            faults.say("the gateway's database had ended: it is started")
            await stage.gateway.stop()
            await stage.gateway.start()
