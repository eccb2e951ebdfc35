"""Brings what is stored under the newest key while everything runs, and proves at the start that every record
can be opened.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import get_args

import structlog

from gateway.credentials import endpoint_secrets
from gateway.credentials.vault import Binding, Vault
from gateway.model.errors import SealBroken, StoreError
from gateway.store import credentials
from gateway.store.credentials import Table
from gateway.store.pool import Database

log = structlog.get_logger(__name__)

EVERY_SECONDS = 3600.0
BATCH = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """`broken`: connections with a record that no configured key opens."""

    records: int
    broken: tuple[str, ...]


async def check_keys(database: Database, vault: Vault) -> None:
    """Raises SealBroken, naming a connection and what to do, when a key that seals something is not
    configured.
    """
    for used in await credentials.keys_in_use(database):
        if used.key_id not in vault.key_ids:
            raise SealBroken(
                f"connection {used.connection!r} and {used.records - 1} other records are sealed under the"
                f" key {used.key_id}, which is not among security.encryption_keys"
                f" ({', '.join(sorted(vault.key_ids))}): put that key back at the end of the list"
            )


async def rotate(database: Database, vault: Vault, *, batch: int = BATCH) -> Rotated:
    """Wraps every record anew that an older key seals. Readers go on; of several replicas each record is
    changed by one.
    """
    records, broken = 0, set[str]()
    for table in get_args(Table):
        after = ("", 0)
        while found := await credentials.stale(database, table, vault.newest, after=after, limit=batch):
            for record in found:
                binding = Binding(
                    customer=record.customer,
                    connection=record.connection,
                    field=table,
                    generation=record.generation,
                )
                try:
                    records += await credentials.reseal(
                        database, table, record, vault.reseal(record.sealed, binding)
                    )
                except SealBroken as error:
                    broken.add(record.connection)
                    log.error("connection.reseal_failed", connection=record.connection, detail=str(error))
            after = (found[-1].connection, found[-1].generation)
    records += await endpoint_secrets.rotate(database, vault)
    return Rotated(records=records, broken=tuple(sorted(broken)))


async def run(database: Database, vault: Vault) -> None:
    """Until cancelled: at the start and every hour."""
    while True:
        try:
            rotated = await rotate(database, vault)
        except StoreError as error:
            log.warning("connection.rotation_deferred", detail=str(error))
        else:
            if rotated.records:
                log.info("connection.credentials_resealed", records=rotated.records, key=vault.newest)
        await asyncio.sleep(EVERY_SECONDS)
