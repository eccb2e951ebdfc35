"""The oracle campaign as a test: a few short seeds. The long one is `make campaign`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.rig import size
from tests.soak.campaign import run
from tests.soak.shape import shape


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(1, 1 + size("SEEDS", 3)))
async def test_every_system_holds_what_was_acknowledged(seed: int, tmp_path: Path) -> None:
    planned = shape(seed, seconds=size("SECONDS", 120), replicas=[1, 2, 3], rate=size("RATE", 25))
    report = await run(planned, tmp_path)
    print("\n" + report.line())
    assert sum(report.faults_done.values()) > planned.seconds / 12
    assert report.findings == {}, report.line()
    assert report.pending == 0, report.stuck["pending"]
