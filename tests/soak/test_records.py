"""A million changes at a system, with kills, sleepers, failures and cursors that expire: at quiet the records
equal it, and a consumer that only follows `next` has every last state. `RECORDS_CHANGES` says how many.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace
from datetime import timedelta

import pytest

from gateway.store.pool import Database
from tests.fixtures.inbound_rig import InboundRig
from tests.fixtures.inbound_world import SETTINGS, STREAMS, World
from tests.fixtures.source import Source

CHANGES = int(os.environ.get("RECORDS_CHANGES", "1000000"))


@pytest.mark.soak
@pytest.mark.timeout(7200)
async def test_a_million_changes(database: Database) -> None:
    streams = tuple(replace(stream, page=500) for stream in STREAMS)
    source = Source(streams=streams, skew=timedelta(minutes=10))
    rig = InboundRig(database, source, initial_days=2, settings=SETTINGS)
    keys = [f"k{number}" for number in range(3_000)]
    world = World(rig, random.Random(7), keys=keys, burst=2_000)
    world.consumer.limit = 1_000
    for _ in range(5_000):
        world.change()
    await rig.activate()
    while world.changes < CHANGES:
        await world.step()
    await world.calm()
    assert not world.differences()
    for stream in streams:
        assert await rig.held(stream.name) == source.holds(stream.name)
