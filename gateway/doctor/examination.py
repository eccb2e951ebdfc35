"""The doctor: which checks there are, and the report that they make together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from datetime import datetime
from functools import partial

from gateway import clock
from gateway.doctor import login, machine
from gateway.doctor.check import Check, Once, make
from gateway.doctor.database_checks import OF_THE_DATABASE, DatabaseChecks
from gateway.events.broker_look import look
from gateway.model import diagnosis_broker as broker
from gateway.model import diagnosis_database
from gateway.model.diagnosis import Looked, Report, looked, not_made, problem, together
from gateway.model.diagnosis_broker import BrokerFacts, BrokerNeeds
from gateway.model.subscriptions import copies_of
from gateway.model.topics import filters
from gateway.payloads.sources import compile_sources, only
from gateway.settings import Settings
from gateway.store.pool import Database

KEPT_SECONDS = 15.0
"""Whoever asks again within gets the same report: a look costs the broker some thousand messages."""

NO_DATABASE = "the database cannot be used"

CHECKS = ("broker", "broker access", "broker queue", *OF_THE_DATABASE, "login", "ports")


class Doctor:
    """`database` None: it could not be opened, `fault` says why. `serves`: this process is a gateway's own,
    so the ports are its. `keys`: ids of the configured encryption keys.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        database: Database | None,
        keys: frozenset[str],
        fault: str | None = None,
        serves: bool = False,
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self._settings = settings
        self._database = database
        self._keys = keys
        self._fault = fault
        self._serves = serves
        self._now = now
        self._looking = asyncio.Lock()
        self._last: tuple[float, Report] | None = None

    async def report(self) -> Report:
        """The last report where it is recent, else a new one. Whoever asks meanwhile waits for the same."""
        # two looks at once would see each other's messages in the broker's counters
        async with self._looking:
            if self._last is None or clock.monotonic() - self._last[0] > KEPT_SECONDS:
                made = await self.examine()
                self._last = (clock.monotonic(), made)
            return self._last[1]

    async def examine(self, only: Collection[str] = CHECKS) -> Report:
        """Makes these checks, side by side."""
        began, at = clock.monotonic(), self._now()
        checks = self._of_the_edges()
        if self._database is None:
            checks |= dict.fromkeys(OF_THE_DATABASE, self._no_database)
            checks["database"] = self._closed_database
        else:
            checks |= DatabaseChecks(self._settings, self._database, self._keys, self._now).checks()
        examined = await asyncio.gather(*(make(name, checks[name]) for name in CHECKS if name in only))
        return Report(at=at, seconds=clock.monotonic() - began, checks=tuple(examined))

    def _of_the_edges(self) -> dict[str, Check]:
        places = [(Once(partial(self._look, url)), self._wanted(url)) for url in self._settings.broker.urls]

        def of_the_broker(judge: Callable[[BrokerFacts, BrokerNeeds], Looked]) -> Check:
            async def check() -> Looked:
                return together([judge(await facts(), wanted) for facts, wanted in places])

            return check

        return {
            "broker": of_the_broker(broker.judge_session),
            "broker access": of_the_broker(broker.judge_access),
            "broker queue": of_the_broker(broker.judge_queue),
            "login": partial(login.look, self._settings),
            "ports": self._ports,
        }

    async def _look(self, url: str) -> BrokerFacts:
        return await asyncio.to_thread(look, self._settings.broker.at(url), self._filters())

    def _filters(self) -> list[str]:
        settings, sources = self._settings, only(compile_sources(self._settings.telemetry.sources))
        partitions = settings.broker.partitions
        return [
            each
            for number in range(partitions)
            for each in filters(sources, settings.customers, partition=number, partitions=partitions)
        ]

    def _wanted(self, url: str) -> BrokerNeeds:
        settings = self._settings.broker
        return BrokerNeeds(
            url=url,
            session_expiry_seconds=settings.session_expiry.total_seconds(),
            allows_qos0=settings.allow_qos0,
            overlaps=copies_of(tuple(self._filters())) is not None,
        )

    async def _ports(self) -> Looked:
        if self._serves:
            return looked([])
        http = self._settings.http
        wanted = {"http.listen": http.listen, "http.metrics_listen": http.metrics_listen}
        return looked(
            [await machine.port_fault(listen, name) for name, listen in wanted.items() if listen is not None]
        )

    async def _no_database(self) -> Looked:
        return not_made(NO_DATABASE)

    async def _closed_database(self) -> Looked:
        advice = "start PostgreSQL, let one of its hosts take writes, or correct database.dsn"
        return looked([problem(self._fault or NO_DATABASE, where=diagnosis_database.WHERE, advice=advice)])
