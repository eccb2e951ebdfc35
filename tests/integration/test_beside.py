"""A comparison that is ended leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from benchmarks.daemon import processes
from benchmarks.servers import PATIENCE, wait_until


async def test_a_run_that_is_terminated_ends_its_servers_and_the_consumer() -> None:
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.beside.run", "backlog", "--only", "fieldgate"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    started: dict[str, int] = {}

    def is_under_way() -> bool:
        assert run.returncode is None
        for pid in processes(run.pid)[1:]:
            with suppress(OSError):
                started[Path(f"/proc/{pid}/comm").read_text().strip()] = pid
        return {"mosquitto", "postgres"} < started.keys() - {"initdb"}

    try:
        await wait_until(is_under_way, seconds=60, what="broker, database and a consumer run")
        run.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(run.wait(), 60 * PATIENCE) == 130
        assert not [name for name, pid in started.items() if Path(f"/proc/{pid}").exists()]
    finally:
        for pid in started.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
