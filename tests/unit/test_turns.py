"""Turns: bounded together and for each customer, in turn, fewer while acknowledgements are late, and none is
lost.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import ExitStack

from gateway import clock
from gateway.model.pressure import MIN_SHARE, STEP_SECONDS, WELL_SECONDS, Pressure
from gateway.sync.turns import LARGE, SMALL, Turns


async def test_one_customer_leaves_turns_to_the_others() -> None:
    turns, go, inside = Turns(8, Pressure()), asyncio.Event(), Counter[str]()

    async def work(customer: str) -> None:
        async with turns.turn(customer):
            inside[customer] += 1
            await go.wait()

    many = [asyncio.create_task(work("many")) for _ in range(50)]
    await asyncio.sleep(0)
    few = [asyncio.create_task(work("few")) for _ in range(2)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert inside == {"many": 4, "few": 2}
    go.set()
    await asyncio.gather(*many, *few)
    assert inside == {"many": 50, "few": 2}


async def test_customers_that_wait_take_turns() -> None:
    turns, order = Turns(1, Pressure()), list[str]()

    async def work(customer: str) -> None:
        async with turns.turn(customer):
            order.append(customer)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(work("a")) for _ in range(10)] + [asyncio.create_task(work("b"))]
    await asyncio.gather(*tasks)
    assert order.index("b") <= 2, "whoever asked once does not wait for all that another asked before"


async def test_turns_are_neither_lost_nor_made_by_cancelling() -> None:
    dice, turns, inside, most = random.Random(7), Turns(6, Pressure()), Counter[str](), 0

    async def work(customer: str) -> None:
        nonlocal most
        async with turns.turn(customer):
            inside[customer] += 1
            most = max(most, inside.total())
            assert inside[customer] <= 3
            try:
                await asyncio.sleep(dice.random() / 1000)
            finally:
                inside[customer] -= 1

    tasks = list[asyncio.Task[None]]()
    for _ in range(600):
        tasks.append(asyncio.create_task(work(dice.choice("abcd"))))
        if dice.random() < 0.4:
            dice.choice(tasks).cancel()
        if dice.random() < 0.5:
            await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not [task for task in tasks if not task.cancelled() and task.exception()] and most == 6
    assert not turns._taken and not turns._waiting
    async with turns.turn("a"), turns.turn("a"), turns.turn("a"), turns.turn("b"):
        pass


async def test_batches_are_small_while_messages_come_in() -> None:
    pressure = Pressure()
    turns = Turns(8, pressure)
    assert turns.windows == LARGE and not turns.is_pressed
    pressure.note(0.001, now=clock.monotonic())
    assert turns.windows == SMALL and not turns.is_pressed


def test_the_share_halves_while_acknowledgements_are_late_and_comes_back() -> None:
    pressure, now, late, well = Pressure(), 100.0, 2 * WELL_SECONDS, WELL_SECONDS / 2
    assert pressure.share(now=now) == 1.0
    shares = []
    for _ in range(20):
        now += STEP_SECONDS
        pressure.note(late, now=now)
        shares.append(pressure.share(now=now))
    assert shares == sorted(shares, reverse=True) and shares[-1] == MIN_SHARE
    for _ in range(40):
        now += STEP_SECONDS
        pressure.note(well, now=now)
    assert pressure.share(now=now) == 1.0
    pressure.note(late, now=now + STEP_SECONDS / 2)
    assert pressure.share(now=now + STEP_SECONDS * 1.5) < 1.0
    assert pressure.share(now=now + 60) == 1.0, "nothing came in for long: nothing is late"


def test_what_is_in_no_hurry_rests_while_messages_come_in_and_longer_while_they_wait() -> None:
    pressure = Pressure()
    assert pressure.rest(2.0, now=0.0) == 0.0
    pressure.note(WELL_SECONDS / 2, now=10.0)
    assert pressure.rest(2.0, now=10.1) == 2.0
    pressure.note(WELL_SECONDS * 2, now=10.2)
    assert pressure.rest(2.0, now=10.2 + 2 * STEP_SECONDS) == 6.0
    assert pressure.rest(2.0, now=60.0) == 0.0, "nothing comes any more"


def test_those_that_are_in_no_hurry_rest_for_each_other() -> None:
    """Together they work half of the time at most, however many they are, and less where each of them rests for
    longer.
    """
    for count in range(1, 200):
        for times in (1.0, 3.0, 50.0):
            pressure = Pressure()
            pressure.note(0.001, now=10.0)
            with ExitStack() as company:
                for _ in range(count):
                    company.enter_context(pressure.company())
                rest = pressure.rest(1.0, now=10.1, times=times)
            assert rest >= times and count / (1.0 + rest) <= 0.5
            assert pressure.rest(1.0, now=10.1, times=times) == times, "alone again"
