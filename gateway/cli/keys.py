"""`fieldgate keys`: which keys seal what is stored, and wrapping it anew under the newest."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
from pathlib import Path
from typing import Annotated, TypedDict

import orjson
import typer

from connectors.registry import SYSTEMS
from gateway.cli import screen
from gateway.cli.given import DEFAULT, Config
from gateway.cli.operate import check_current
from gateway.configuration import load
from gateway.configuration.usable import KEY_BYTES
from gateway.credentials.rotation import rotate as rotate_records
from gateway.credentials.vault import Vault
from gateway.model.errors import SealBroken
from gateway.settings import Settings
from gateway.store.credentials import keys_in_use
from gateway.store.pool import Database

app = typer.Typer(
    help=(
        "List the encryption keys in use, make one, or bring what is stored under the newest.\n\nExample:"
        " fieldgate keys --json"
    ),
    invoke_without_command=True,
)


class Key(TypedDict):
    """One key, by its id; never the key itself."""

    key: str
    records: int
    newest: bool
    configured: bool


@app.callback()
def keys(
    context: typer.Context,
    config: Config = DEFAULT,
    json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """List the keys that seal what is stored, by id, with counts. A key with no records may be taken out of
    the configuration.
    """
    if context.invoked_subcommand is not None:
        return
    rows = asyncio.run(_list(_settings(config)))
    if json:
        print(orjson.dumps(rows).decode())
        return
    for row in rows:
        notes = [
            note
            for note, holds in (
                ("newest", row["newest"]),
                ("NOT CONFIGURED: its records cannot be opened", not row["configured"]),
            )
            if holds
        ]
        print(f"{row['key']}  {screen.count(row['records'], 'record'):>15}  {', '.join(notes)}".rstrip())


@app.command()
def generate() -> None:
    """Print a new key for security.encryption_keys: 256 random bits in base64.

    Example: fieldgate keys generate > secrets/encryption_key
    """
    print(base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode())


@app.command()
def rotate(config: Config = DEFAULT) -> None:
    """Wrap everything anew that an older key seals, now; the daemon does so by itself within the hour.

    Example: fieldgate keys rotate --config /etc/fieldgate/fieldgate.yaml
    """
    with screen.working("wrapping anew"):
        rotated = asyncio.run(_rotate(_settings(config)))
    are = "is" if rotated == 1 else "are"
    print(f"{screen.count(rotated, 'record')} {are} under the newest key now")


def _settings(config: Path) -> Settings:
    return load(config, os.environ, systems=SYSTEMS, secrets=("database", "security")).settings


def _vault(settings: Settings) -> Vault:
    return Vault([key.get_secret_value() for key in settings.security.encryption_keys])


async def _list(settings: Settings) -> list[Key]:
    vault = _vault(settings)
    database = await Database.open(settings.database.dsn.get_secret_value(), size=3)
    try:
        await check_current(database)
        used = {key.key_id: key.records for key in await keys_in_use(database)}
    finally:
        await database.close()
    known = sorted(used.keys() | vault.key_ids, key=lambda key: (key != vault.newest, key))
    return [
        Key(key=key, records=used.get(key, 0), newest=key == vault.newest, configured=key in vault.key_ids)
        for key in known
    ]


async def _rotate(settings: Settings) -> int:
    database = await Database.open(settings.database.dsn.get_secret_value(), size=3)
    try:
        await check_current(database)
        rotated = await rotate_records(database, _vault(settings))
    finally:
        await database.close()
    if rotated.broken:
        raise SealBroken(
            f"{rotated.records} records are under the newest key now, but these connections cannot be opened:"
            f" {', '.join(rotated.broken)}"
        )
    return rotated.records
