"""What the daemon does by the clock to all that is stored: what is past its retention goes, dead letters stay
within their bound, and it is noted that somebody listens to devices. Each is a loop that runs until
cancelled; while the database is away it waits for its next turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping

import structlog

from gateway import clock, metrics
from gateway.model.errors import StoreError
from gateway.settings import Settings
from gateway.store import judgements, records, retention, sparkplug
from gateway.store.pool import Database

log = structlog.get_logger(__name__)

TRIM_SECONDS = 30.0
RETENTION_SECONDS = 3600.0
LISTEN_SECONDS = 5.0


def loops(
    settings: Settings, database: Database, listens: Callable[[], bool]
) -> Mapping[str, Coroutine[None, None, None]]:
    """By name. `listens`: whether every partition that is ours hears its broker."""
    return {
        "listening": _listen(database, listens),
        "retention": _retain(settings, database),
        "dead letters": _trim(settings, database),
    }


async def _retain(settings: Settings, database: Database) -> None:
    kept = settings.telemetry
    buffer = kept.buffer or kept.retention
    while True:
        try:
            for name in await retention.tell_filling(
                database, now=clock.now(), buffer=buffer, public_url=settings.http.public_url
            ):
                log.warning("store.buffer_filling", connection=name)
            for name in await retention.drop_expired(
                database, now=clock.now(), retention=kept.retention, buffer=buffer
            ):
                log.info("store.partition_dropped", partition=name)
            await sparkplug.forget(database, kept.retention)
            await records.expire(database, now=clock.now(), retention=settings.records.deleted_retention)
        except StoreError as error:
            log.warning("store.retention_deferred", detail=str(error))
        await asyncio.sleep(RETENTION_SECONDS)


async def _trim(settings: Settings, database: Database) -> None:
    """Often: what may be sent in a minute is all that dead letters can hold beyond their bound."""
    telemetry = settings.telemetry
    while True:
        try:
            dropped = await retention.trim_dead_letters(
                database,
                now=clock.now(),
                retention=telemetry.dead_letter_retention,
                max_bytes=telemetry.dead_letter_bytes,
            )
        except StoreError as error:
            log.warning("store.retention_deferred", detail=str(error))
        else:
            if dropped:
                metrics.DEAD_LETTERS_DROPPED.inc(sum(dropped.values()))
                log.warning("store.dead_letters_dropped", customers=len(dropped), count=sum(dropped.values()))
        await asyncio.sleep(TRIM_SECONDS)


async def _listen(database: Database, listens: Callable[[], bool]) -> None:
    """Silence of a device counts only while somebody listens to devices."""
    while True:
        if listens():
            try:
                await judgements.listen(database)
            except StoreError as error:
                log.debug("gateway.listening_not_noted", detail=str(error))
        await asyncio.sleep(LISTEN_SECONDS)
