"""Systems that answer oddly, read by the engine into a real database: a run ends as a run does, whatever it
was told, and what it stored can be read, told and gone on from.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from benchmarks.records import Well
from gateway.events.record_documents import page_payload
from gateway.inbound.run import InboundRunner
from gateway.model.errors import ConnectorError
from gateway.model.operation import Operation
from gateway.model.record import phases_of, read_cursor
from gateway.store.pool import Database
from gateway.store.records import Records
from gateway.sync.link import ServedConnection
from tests.contract.test_hostile import TARGETS, Answering, Target, _build
from tests.fixtures import hostile
from tests.fixtures.hostile import Wire
from tests.fixtures.inbound_rig import InboundRig

READERS = [target for target in TARGETS if _build(target.system, target.settings, target.credentials).inbound]  # type: ignore[attr-defined]
RUNS = 200


class Indifferent(Well):
    """Goes on whatever happens."""

    async def failed(
        self,
        link: ServedConnection,
        error: ConnectorError,
        *,
        attempts: int,
        operation: Operation = Operation.PUSH,
    ) -> float:
        return 0.0


@pytest.mark.filterwarnings("ignore:http.cookiejar bug")
@pytest.mark.parametrize(
    "target", READERS, ids=lambda target: f"{target.system}-{'-'.join(target.credentials)}"
)
async def test_a_run_ends_as_a_run_does_whatever_the_system_answers(
    target: Target, database: Database, hasty: None, wired: Callable[[hostile.Respond], Wire]
) -> None:
    await _runs(target, database, wired, seed=1, runs=RUNS)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore:http.cookiejar bug")
@pytest.mark.parametrize("seed", range(2, 6))
async def test_thousands_of_runs_end_as_runs_do(
    seed: int, database: Database, hasty: None, wired: Callable[[hostile.Respond], Wire]
) -> None:
    for number, target in enumerate(READERS):
        print(
            f"seed {seed}: {target.system}"
            f" {dict(await _runs(target, database, wired, seed=seed, runs=300, number=number))}"
        )


async def _runs(
    target: Target,
    database: Database,
    wired: Callable[[hostile.Respond], Wire],
    *,
    seed: int,
    runs: int,
    number: int = 0,
) -> Counter[str]:
    """How the runs ended."""
    dice = random.Random(f"{target.system} {seed}")
    answering = Answering(target, dice)
    wired(answering)
    connector: Any = _build(target.system, target.settings, target.credentials)
    name = f"odd-{seed}-{number}"
    rig = await InboundRig(database, connector, name=name, customer=name, initial_days=2).activate()
    runner = InboundRunner(
        database,
        rig.settings,
        rig.records,
        Indifferent(),
        rig.engine.troubles,
        public_url="https://f.example",
    )
    phases = phases_of(connector.inbound, initial_days=2)
    ended: Counter[str] = Counter()
    for run in range(runs):
        stream, phase = dice.choice(phases)
        answering.rate = dice.choice((0.0, 0.01, 0.05, 0.2))
        try:
            claim = await rig.claim(phase, stream)
        except LookupError:  # its history is read whole
            continue
        await runner.run(claim, rig.link)
        row = await rig.row(phase, stream)
        said = f"{target.system}, seed {seed}, run {run}, {stream}/{phase}: {row['last_error']}"
        assert "internal error" not in (row["last_error"] or ""), said
        assert row["state"] in ("idle", "lagging", "running", "done", "failed"), said
        ended[row["state"]] += 1
    await connector.close()
    assert ended["failed"] and ended["idle"], ended
    held = await _followed(database, name)
    counted = await rig.rows("select count(*) as n from record where connection_id = $1", name)
    assert len(held) == counted[0]["n"] > 0
    return ended


async def _followed(database: Database, customer: str) -> set[tuple[str, str]]:
    """Every record, as a consumer is given it."""
    cursor: str | None = None
    held: set[tuple[str, str]] = set()
    while True:
        page = await Records(database).page(customer, place=read_cursor(cursor, customer=customer), limit=100)
        document = orjson.loads(page_payload(page))
        held |= {(item["stream"], item["key"]) for item in document["items"]}
        cursor = document["next"]
        if not document["has_more"]:
            return held
