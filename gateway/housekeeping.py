"""What the daemon does by the clock to all that is stored: what is past its retention goes, dead letters stay
within their bound, and it is noted that somebody listens to devices. Each is a loop that runs until
cancelled; while the database is away it waits for its next turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta

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
    """Each part by itself: what stops one of them must not keep what the others would remove."""
    while True:
        for part in (_tell_filling, _drop_expired, _forget):
            try:
                await part(settings, database)
            except StoreError as error:
                log.warning("store.retention_deferred", detail=str(error))
        await asyncio.sleep(RETENTION_SECONDS)


async def _tell_filling(settings: Settings, database: Database) -> None:
    buffer, url = _buffer(settings), settings.http.public_url
    for name in await retention.tell_filling(database, now=clock.now(), buffer=buffer, public_url=url):
        log.warning("store.buffer_filling", connection=name)


async def _drop_expired(settings: Settings, database: Database) -> None:
    kept, buffer = settings.telemetry.retention, _buffer(settings)
    for name in await retention.drop_expired(database, now=clock.now(), retention=kept, buffer=buffer):
        log.info("store.partition_dropped", partition=name)


async def _forget(settings: Settings, database: Database) -> None:
    await sparkplug.forget(database, settings.telemetry.retention)
    await records.expire(database, now=clock.now(), retention=settings.records.deleted_retention)


def _buffer(settings: Settings) -> timedelta:
    return settings.telemetry.buffer or settings.telemetry.retention


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
