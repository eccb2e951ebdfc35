"""Asks the system to make the meters that rules with `create` want, each once, before its first reading is
due.
"""

from __future__ import annotations

import asyncio
import random

import structlog

from gateway import clock
from gateway.model.errors import (
    BadConfiguration,
    BatchRefused,
    ConnectorError,
    LeaseLost,
    OutcomeUnknown,
    PermissionDenied,
    Unavailable,
)
from gateway.model.exchange import EnsuresMeters, RemoteMeter
from gateway.model.outcome import Rejected
from gateway.settings import SyncSettings
from gateway.store import meters_made, streams
from gateway.store.calls import may_call
from gateway.store.meters_made import WantedMeter
from gateway.store.pool import Database
from gateway.store.streams import Claim
from gateway.sync.link import CallsEnded, ServedConnection

log = structlog.get_logger(__name__)

AT_ONCE = 100
MAKE_SECONDS = 10.0
"""How much of a run this may take. Then deliveries have their turn; the meters that are left follow in the
next run.
"""

AGAIN_SECONDS = 86400.0
"""After so long a meter that the system refused is asked for again."""


async def make(database: Database, claim: Claim, link: ServedConnection, *, settings: SyncSettings) -> int:
    """Asks for the meters that are due; returns how many were asked for. A meter that is refused waits for a
    day and is shown. Raises CallsEnded, and ConnectorError where the system fails and not one meter.

    A connector looks a meter up before it makes it, so what a killed process had asked for is asked for
    again: when the call must have ended, and what came of it can be found. Sooner it would be made twice.
    """
    if not any(rule.create for rule in link.rules):
        return 0
    started = clock.monotonic()
    asked = 0
    try:
        while clock.monotonic() < started + MAKE_SECONDS:
            due = await meters_made.due(database, claim.connection, AT_ONCE)
            if not due:
                break
            for wanted in due:
                if not await may_call(database, link, also_blocked=claim.trial):
                    raise CallsEnded(claim.connection)
                await _ask(database, claim, link, wanted, settings)
                asked += 1
    finally:
        if asked:
            await meters_made.show(database, claim.connection, title=link.title, page=link.page)
    return asked


async def _ask(
    database: Database, claim: Claim, link: ServedConnection, wanted: WantedMeter, settings: SyncSettings
) -> None:
    timeout, unknown = settings.push_timeout.total_seconds(), settings.unknown_wait.total_seconds()
    # Taken before the proof, so that the lease is never believed to last longer than it does.
    proved_monotonic = clock.monotonic()
    if not await _put_off(database, claim, wanted, timeout + unknown):
        return  # nobody wants it any more
    if clock.monotonic() - proved_monotonic > settings.lease.total_seconds() / 3:
        raise LeaseLost(f"the meters of {claim.connection} may be another replica's by now")
    try:
        answer = await _answer(link, wanted, timeout)
    except Unavailable:  # it may be made yet
        await _put_off(database, claim, wanted, unknown)
        raise
    except ConnectorError:
        await _put_off(database, claim, wanted, 0.0)
        raise
    async with database.transaction() as connection:
        await streams.hold(connection, claim)  # before the meter, in the order of every change of meters
        if isinstance(answer, RemoteMeter):
            await meters_made.made(connection, claim.connection, wanted.meter, title=answer.title)
        else:
            again = AGAIN_SECONDS * (1.0 + 0.1 * random.random())
            await meters_made.refused(
                connection, claim.connection, wanted.meter, error=answer, again_seconds=again
            )
        await streams.prove(connection, claim)
    if isinstance(answer, RemoteMeter):
        log.info("sync.meter_made", connection=claim.connection, meter=wanted.meter)
    else:
        log.warning("sync.meter_not_made", connection=claim.connection, meter=wanted.meter, detail=answer)


async def _put_off(database: Database, claim: Claim, wanted: WantedMeter, seconds: float) -> bool:
    """Has the meter asked for again after so long at the earliest. Returns whether it is still wanted. Raises
    LeaseLost.
    """
    async with database.transaction() as connection:
        await streams.hold(connection, claim)
        is_wanted = await meters_made.put_off(
            connection, claim.connection, wanted.meter, again_seconds=seconds
        )
        await streams.prove(connection, claim)
    return is_wanted


async def _answer(link: ServedConnection, wanted: WantedMeter, timeout_seconds: float) -> RemoteMeter | str:
    """The meter, or the reason why there is none."""
    connector = link.connector
    if not isinstance(connector, EnsuresMeters):
        return "the system makes no meters with these settings"
    meter = RemoteMeter(meter=wanted.meter, title=f"{wanted.device} {wanted.metric}", unit=wanted.unit)
    try:
        async with asyncio.timeout(timeout_seconds):
            answer = await connector.ensure_meter(meter)
    except TimeoutError as error:
        raise OutcomeUnknown(f"no answer within {timeout_seconds:g} s") from error
    except (BadConfiguration, PermissionDenied, BatchRefused) as error:
        return str(error)
    if isinstance(answer, Rejected):
        return f"{answer.code}: {answer.message}"
    return answer
