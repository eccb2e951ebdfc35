"""`fieldgate doctor` beside a gateway that runs: nothing while all is well, and the same by the API; a
finding once the gateway is gone.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

from benchmarks.daemon import Daemon
from benchmarks.mqtt import Publisher
from benchmarks.servers import Mosquitto, Postgres, wait_until
from gateway.model.access import Role
from gateway.store import access
from gateway.store.pool import Database
from tests.fixtures import programs


async def asked(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await programs.run(
        "doctor", "--config", str(daemon._path), *arguments, env={**os.environ, **daemon._environment}
    )


def found(report: dict[str, Any]) -> dict[str, list[str]]:
    """What is found, by check; a disk that is nearly full is this machine's matter."""
    return {
        each["check"]: [finding["what"] for finding in each["findings"]]
        for each in report["checks"]
        if each["findings"] and each["check"] != "disk"
    }


async def test_a_system_that_is_well_gives_nothing_and_one_that_ended_is_found(
    tmp_path: Path, mosquitto: Mosquitto, make_postgres: Callable[..., Awaitable[Postgres]]
) -> None:
    dsn = await (await make_postgres()).create("fieldgate")
    daemon = Daemon(tmp_path, broker_url=mosquitto.url, dsn=dsn)
    daemon.start()
    try:
        await daemon.ready(seconds=90)
        async with Publisher[int](mosquitto.port, "pump", acknowledged=lambda _: None) as publisher:
            payload = json.dumps({"ts": time.time_ns() // 1_000_000, "metrics": {"t": 1}}).encode()
            await publisher.publish("acme/devices/pump/telemetry", payload, 1)
            await publisher.flush()

        async def is_well() -> bool:
            return not found(json.loads((await asked(daemon, "--json")).stdout))

        await wait_until(is_well, seconds=120, what="nothing is found", every=1)
        database = await Database.open(dsn, size=2)
        token = (await access.create(database, name="o", role=Role.OPERATOR, customer=None)).token
        await database.close()
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{daemon.port}", trust_env=False, timeout=60
        ) as client:
            answer = await client.get("/v1/doctor", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == 200 and found(answer.json()) == {}
            assert {each["check"] for each in answer.json()["checks"]} >= {"broker queue", "replicas"}
        shown = await asked(daemon, "--only", "broker", "--only", "replicas")
        assert (shown.returncode, "nothing found" in shown.stdout) == (0, True), shown
        missed = await asked(daemon, "--only", "brokr")
        assert (missed.returncode, "did you mean 'broker'" in missed.stderr) == (2, True)
        assert await daemon.stop() == 0

        async def is_seen() -> bool:
            done = await asked(daemon, "--only", "replicas")
            return done.returncode == 1 and "no gateway is running" in done.stdout

        await wait_until(is_seen, seconds=60, what="that nobody works is found", every=1)
    finally:
        if daemon.exit_code is None:
            await daemon.kill()
