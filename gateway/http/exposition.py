"""The metrics of both processes: the daemon says its own, and what there is to say of connections is read
from PostgreSQL and made here, so that however many there are take no time of the loop that acknowledges.
"""

from __future__ import annotations

import asyncio

import structlog
from prometheus_client.exposition import choose_encoder

from gateway import clock, metrics
from gateway.http.ports import Observed
from gateway.model.connection import State
from gateway.model.errors import StoreError
from gateway.outage import Outage
from gateway.settings import MetricsSettings
from gateway.store import observed
from gateway.store.observed import Observation
from gateway.store.pool import Database

log = structlog.get_logger(__name__)

HELD_SECONDS = 5.0
"""How old what is said of connections may be: however often it is scraped, it is read and made once in that
time.
"""

READ_SECONDS = 5.0

_END = "# EOF\n"
"""The last line of OpenMetrics."""


class Exposition:
    """The daemon, with what is said of connections added to its metrics."""

    def __init__(self, daemon: Observed, settings: MetricsSettings) -> None:
        self._daemon, self._settings = daemon, settings
        self._database: Database | None = None
        self._reading = asyncio.Lock()
        self._read_monotonic: float | None = None
        self._made: dict[str, str] = {}
        self._outage = Outage(
            began=lambda detail: log.warning("http.metrics_stale", detail=detail),
            ended=lambda: log.info("http.metrics_current"),
        )

    def serve(self, database: Database) -> None:
        """From now on connections are told of."""
        self._database = database

    async def alive(self) -> None:
        """As the daemon."""
        await self._daemon.alive()

    async def checks(self) -> dict[str, bool]:
        """As the daemon."""
        return await self._daemon.checks()

    async def exposition(self, accept: str) -> tuple[str, str]:
        """The metrics, and their media type. Raises what the daemon raises; while the database is away what
        was read last of connections stands.
        """
        text, media_type = await self._daemon.exposition(accept)
        async with self._reading:  # whoever asks meanwhile is given what is being made
            await self._refresh()
            if self._read_monotonic is None:
                return text, media_type
            if media_type not in self._made:
                encode, _ = choose_encoder(accept)
                # aside, so that health is answered meanwhile
                self._made[media_type] = (await asyncio.to_thread(encode, metrics.CONNECTIONS)).decode()
            return text.removesuffix(_END) + self._made[media_type], media_type

    async def _refresh(self) -> None:
        now = clock.monotonic()
        if self._database is None or (
            self._read_monotonic is not None and now < self._read_monotonic + HELD_SECONDS
        ):
            return
        try:
            async with asyncio.timeout(READ_SECONDS):
                found = await observed.read(
                    self._database, connections=self._settings.connections, customers=self._settings.customers
                )
        except (StoreError, TimeoutError) as error:
            self._outage.note(str(error))
            return
        self._outage.note(None)
        self._read_monotonic = now
        self._made.clear()
        await asyncio.to_thread(set_gauges, found, one_hot=self._settings.one_hot)


def set_gauges(found: Observation, *, one_hot: bool) -> None:
    """Every gauge of connections says this, and of no other connection."""
    for gauge in _GAUGES:
        gauge.clear()
    for one in found.connections:
        labels, state = (one.connection, one.customer, one.system), one.state
        metrics.SYNC_LAG.labels(one.connection).set(one.lag_seconds)
        metrics.SYNC_PENDING.labels(one.connection).set(one.pending)
        metrics.SYNC_LAST_SUCCESS.labels(one.connection).set(
            0 if one.last_success_at is None else one.last_success_at.timestamp()
        )
        metrics.CONNECTION_STATE_CODE.labels(*labels).set(metrics.STATE_CODES[state])
        metrics.REAUTHORIZATION_REQUIRED.labels(*labels).set(state is State.REAUTHORIZATION_REQUIRED)
        for other in State if one_hot else ():
            metrics.CONNECTION_STATE.labels(*labels, other).set(other is state)
    for system in {each.system for each in found.systems}:
        its = [each for each in found.systems if each.system == system]
        metrics.SYSTEM_LAG.labels(system).set(max(0.0, *(each.lag_seconds for each in its)))
        metrics.SYSTEM_PENDING.labels(system).set(sum(each.pending for each in its))
    for each in found.systems:
        metrics.CONNECTIONS_HELD.labels(each.system, each.state).set(each.connections)
    for customer in {each.customer for each in found.customers}:
        theirs = [each for each in found.customers if each.customer == customer]
        metrics.CUSTOMER_LAG.labels(customer).set(max(0.0, *(each.lag_seconds for each in theirs)))
        metrics.CUSTOMER_PENDING.labels(customer).set(sum(each.pending for each in theirs))
        for is_unwell in (False, True):
            count = sum(each.connections for each in theirs if each.is_unwell is is_unwell)
            metrics.CUSTOMER_CONNECTIONS.labels(customer, _health(is_unwell)).set(count)
    metrics.CONNECTIONS_WITHOUT_SERIES.labels(_health(False)).set(found.well_left_out)
    metrics.CONNECTIONS_WITHOUT_SERIES.labels(_health(True)).set(found.unwell_left_out)


def _health(is_unwell: bool) -> str:
    return "unwell" if is_unwell else "well"


_GAUGES = (
    metrics.SYNC_LAG,
    metrics.SYNC_PENDING,
    metrics.SYNC_LAST_SUCCESS,
    metrics.CONNECTION_STATE_CODE,
    metrics.CONNECTION_STATE,
    metrics.REAUTHORIZATION_REQUIRED,
    metrics.CONNECTIONS_HELD,
    metrics.CONNECTIONS_WITHOUT_SERIES,
    metrics.SYSTEM_LAG,
    metrics.SYSTEM_PENDING,
    metrics.CUSTOMER_LAG,
    metrics.CUSTOMER_PENDING,
    metrics.CUSTOMER_CONNECTIONS,
)
