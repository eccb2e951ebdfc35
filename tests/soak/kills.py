"""A million messages through one, two and three replicas that are killed a hundred times, while broker and
database are restarted: `python -m tests.soak.kills --json benchmarks/results/kills.json`.

One connection delivers every sample to a table that journals what is written. Afterwards what the broker
acknowledged to the publisher is compared with what is stored, and with what the system holds: each sample once,
with its value, and those of a device in the order of their times. Before the first fault the same load runs
undisturbed for a while; that tells what a further replica costs.

Keys of the JSON document: `settings` (`messages`, `kills`, `restarts`, `rate` in messages a second, `seed`),
`trials`: of each number of replicas `acknowledged`, `lost`, `duplicated`, `wrong` (stored or delivered with
another value, or changed after it was delivered), `inversions` (delivered after a later sample of its device),
`kills`, `broker_restarts`, `database_restarts`, `seconds` until all was delivered, and `calm`: CPU in
microseconds a message of all replicas and of the database; `machine`, `versions`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.daemon import Daemon, cpu_seconds, tree_seconds
from benchmarks.report import machine, versions, write
from tests.fault.rig import Fleet, Rig, started

DEVICES = 100
CALM_SECONDS = 30.0
CALM_RATE = 1_000.0
DRAIN_SECONDS = 900.0

WRITTEN = """
select count(*) as written, count(distinct (meter, window_start)) as different
from fieldgate_reading_journal
"""

# Within one push order means nothing: `written_at` is the time of its transaction, and pushes of a connection
# follow each other.
INVERSIONS = """
with push as (
    select meter, written_at, min(window_start) as first, max(window_start) as last
    from fieldgate_reading_journal
    group by meter, written_at
), before as (
    select first, max(last) over (
        partition by meter order by written_at rows between unbounded preceding and 1 preceding
    ) as latest
    from push
)
select count(*) from before where first < latest
"""

HELD = """
select split_part(meter, '/', 1) as device, round(extract(epoch from window_start) * 1000)::bigint as at,
    value, changes
from fieldgate_reading
"""


async def trial(directory: Path, replicas: int, given: argparse.Namespace) -> dict[str, object]:
    """One number of replicas, on servers of its own."""
    chance = random.Random(given.seed + replicas)
    async with started(directory) as rig:
        daemons = [rig.daemon(f"replica{number}") for number in range(replicas)]
        for daemon in daemons:
            daemon.start()
            await daemon.ready(120)
        await rig.live()
        async with Fleet(rig.broker.port, devices=DEVICES) as fleet:
            calm = await _calm(rig, daemons, fleet)
            began = time.monotonic()
            publishing = asyncio.create_task(fleet.publish(given.messages, rate=given.rate))
            done = await _faults(rig, daemons, given, chance, publishing)
            await publishing
            await fleet.flush()
        for daemon in daemons:
            await daemon.ready(120)
        wanted = len(fleet.acknowledged)
        await rig.reaches("telemetry", wanted, seconds=DRAIN_SECONDS)
        await rig.reaches("fieldgate_reading", wanted, dsn=rig.sink_dsn, seconds=DRAIN_SECONDS)
        seconds = time.monotonic() - began
        ends = [await daemon.stop() for daemon in daemons]
        assert ends == [0] * replicas, ends
        return {
            "replicas": replicas, "acknowledged": wanted, **await judged(rig, fleet), **done,
            "seconds": round(seconds, 1), "calm": calm,
        }  # fmt: skip


async def _calm(rig: Rig, daemons: list[Daemon], fleet: Fleet) -> dict[str, float]:
    """What a message costs where nothing happens, in microseconds of CPU."""
    await fleet.publish(int(CALM_RATE * 5), rate=CALM_RATE)  # partitions and plans are made
    await fleet.flush()
    before = [sum(cpu_seconds(daemon.pid) for daemon in daemons), tree_seconds(rig.postgres.pid)]
    count = int(CALM_RATE * CALM_SECONDS)
    await fleet.publish(count, rate=CALM_RATE)
    await fleet.flush()
    await rig.reaches("fieldgate_reading", len(fleet.acknowledged), dsn=rig.sink_dsn)
    after = [sum(cpu_seconds(daemon.pid) for daemon in daemons), tree_seconds(rig.postgres.pid)]
    own, database = (
        round((late - early) / count * 1e6, 1) for early, late in zip(before, after, strict=True)
    )
    return {"replicas_us": own, "database_us": database}


async def _faults(
    rig: Rig,
    daemons: list[Daemon],
    given: argparse.Namespace,
    chance: random.Random,
    publishing: asyncio.Task[None],
) -> dict[str, int]:
    """All of them, evenly over the time that publishing takes."""
    names = ["kill"] * given.kills + ["broker", "database"] * given.restarts
    chance.shuffle(names)
    each = given.messages / given.rate / len(names)
    for number, name in enumerate(names, 1):
        await asyncio.sleep(chance.uniform(0.2, 2 * each - 0.2) if each > 0.4 else each)
        match name:
            case "kill":
                daemon = chance.choice(daemons)
                await daemon.kill()
                daemon.start()
            case "broker":
                await rig.broker.stop()
                await asyncio.sleep(chance.uniform(0.0, 1.0))
                await rig.broker.start()
            case _:
                await rig.postgres.kill()
                await asyncio.sleep(chance.uniform(0.0, 1.0))
                await rig.postgres.start()
        if number % 20 == 0:
            print(f"{number} of {len(names)} faults", file=sys.stderr, flush=True)
        if publishing.done():
            await publishing  # what ended it
    return {
        "kills": names.count("kill"),
        "broker_restarts": names.count("broker"),
        "database_restarts": names.count("database"),
    }


async def judged(rig: Rig, fleet: Fleet) -> Mapping[str, int]:
    """What came of it: how many samples are lost, duplicated, wrong and out of order."""
    stored = await rig.stored()
    rows = await rig.fetch(HELD, dsn=rig.sink_dsn)
    held = {(row["device"], row["at"]): row["value"] for row in rows}
    written = (await rig.fetch(WRITTEN, dsn=rig.sink_dsn))[0]
    wanted = fleet.acknowledged
    lost = sum(1 for key in wanted if key not in stored or key not in held)
    wrong = sum(1 for key, value in wanted.items() if stored.get(key, value) != value or held.get(key, value) != value)  # fmt: skip
    return {
        "lost": lost,
        "duplicated": written["written"] - written["different"],
        "wrong": wrong + sum(1 for row in rows if row["changes"]) + len(held.keys() - wanted.keys()),
        "inversions": (await rig.fetch(INVERSIONS, dsn=rig.sink_dsn))[0][0],
    }


async def main(given: argparse.Namespace) -> int:
    """0 where every trial is exact."""
    document = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    document |= {
        "machine": machine(),
        "versions": versions(("mosquitto", "-h")),
        "settings": {
            name: getattr(given, name) for name in ("messages", "kills", "restarts", "rate", "seed")
        },
    }
    trials = document.setdefault("trials", {})
    for replicas in given.replicas:
        directory = Path(tempfile.mkdtemp(prefix="fg-kills-"))
        try:
            trials[str(replicas)] = await trial(directory, replicas, given)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        print(json.dumps(trials[str(replicas)]), flush=True)
        write(given.json, document)
    exact = all(one[name] == 0 for one in trials.values() for name in ("lost", "duplicated", "wrong", "inversions"))  # fmt: skip
    return 0 if exact else 1


def arguments() -> argparse.Namespace:
    """What the command was given."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.kills", description=__doc__.split(":")[0])
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs, each of a replica taken by chance")
    parser.add_argument("--restarts", type=int, default=10, help="of the broker, and as many of the database")
    parser.add_argument("--rate", type=float, default=2_500.0, help="messages a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="a file to write; trials that are in it stay")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(arguments())))
