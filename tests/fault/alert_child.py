"""One replica that works alerts, to be killed: `python -m tests.fault.alert_child DSN PORT OWNER`."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

import structlog
from pydantic import SecretStr

from gateway.alerts import run
from gateway.connections import following, lifecycle
from gateway.engine import Engine
from gateway.settings import SecuritySettings, Settings, SyncSettings
from gateway.store.pool import Database
from gateway.sync import schedule
from tests.fault.alert_system import SocketSystem
from tests.fixtures.sync_rig import KEY

SYNC = SyncSettings(
    lease=timedelta(seconds=1),
    push_timeout=timedelta(seconds=0.5),
    unknown_wait=timedelta(seconds=0.5),
    backoff_base=timedelta(milliseconds=20),
    backoff_cap=timedelta(milliseconds=200),
    probe_interval=timedelta(seconds=2),
)


def engine(database: Database, port: int, owner: str, customers: tuple[str, ...] = ()) -> Engine:
    settings = Settings(
        security=SecuritySettings(encryption_keys=(SecretStr(KEY),)), sync=SYNC, customers=customers
    )
    return Engine(settings, database, owner=owner, systems={"scripted": SocketSystem(port)})


async def main(dsn: str, port: int, owner: str) -> None:
    lifecycle.LEASE_SECONDS = 2.0
    run.INTERVAL_SECONDS, schedule.MAX_SLEEP_SECONDS, following.POLL_SECONDS = 0.1, 0.1, 0.1
    lifecycle.POLL_SECONDS = 0.1
    database = await Database.open(dsn, size=8, lease_seconds=SYNC.lease.total_seconds())
    made = engine(database, port, owner)
    async with asyncio.TaskGroup() as group:
        group.create_task(made.lifecycle.run())
        group.create_task(made.alerts.run())
        print("ready", file=sys.__stdout__, flush=True)


def _quiet() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))


if __name__ == "__main__":
    _quiet()
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
