"""`fieldgate migrate`: applies the database migrations that are missing."""

from __future__ import annotations

import asyncio
import os

from connectors.registry import SYSTEMS
from gateway.cli import screen
from gateway.cli.given import DEFAULT, Config
from gateway.configuration import load
from gateway.store.migrate import migrate as apply
from gateway.store.pool import Database


def migrate(
    config: Config = DEFAULT,
) -> None:
    """Apply the database migrations that are missing (`run` does so too).

    Example: fieldgate migrate --config /etc/fieldgate/fieldgate.yaml
    """
    settings = load(config, os.environ, systems=SYSTEMS, secrets=("database",)).settings
    with screen.working("applying migrations"):
        applied = asyncio.run(_migrate(settings.database.dsn.get_secret_value()))
    print("\n".join(f"applied {name}" for name in applied) or "nothing to apply")


async def _migrate(dsn: str) -> list[str]:
    database = await Database.open(dsn, size=2)
    try:
        return await apply(database)
    finally:
        await database.close()
