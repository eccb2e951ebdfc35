"""Makes the checks, each behind a bulkhead: one that fails is a finding, and ends no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from functools import partial
from urllib.parse import urlsplit

from connectors.kit.dates import date_of
from gateway import clock
from gateway.configuration.paths import named_files
from gateway.connections.screening import reach_of
from gateway.doctor import login, machine
from gateway.doctor.asking import Check, Once, checked
from gateway.events.broker_look import look
from gateway.model import diagnosis_broker as broker
from gateway.model import diagnosis_database as judged
from gateway.model import diagnosis_work as work
from gateway.model.diagnosis import Looked, Report, looked, not_made, problem, together
from gateway.model.diagnosis_broker import BrokerFacts, BrokerNeeds
from gateway.model.diagnosis_database import ServerFacts
from gateway.model.diagnosis_work import Certificate, Hook, Unwell
from gateway.model.dsn import each_host
from gateway.model.status import UNWELL
from gateway.model.subscriptions import copies_of
from gateway.model.topics import filters
from gateway.payloads.sources import compile_sources, only
from gateway.settings import Settings
from gateway.store import credentials, inspection, observed, webhooks
from gateway.store import credits as ledger
from gateway.store.inspection import Destination, Replicas
from gateway.store.pool import Database
from gateway.store.views import Views

KEPT_SECONDS = 15.0
"""Whoever asks again within gets the same report: a look costs the broker some thousand messages."""

SILENT_SECONDS = 20.0
"""A replica that was not heard for so long is not there."""

WAITING_SECONDS = 60.0
MAX_UNWELL = 100
MAX_DESTINATIONS = 1_000
MAX_ADDRESSES = 20
"""Of systems whose clock is asked for."""

NO_DATABASE = "the database cannot be used"

OF_THE_DATABASE = (
    "database",
    "migrations",
    "sessions",
    "transactions",
    "replication",
    "disk",
    "vacuum",
    "clocks",
    "certificates",
    "credentials",
    "keys",
    "credits",
    "replicas",
    "connections",
    "streams",
    "retention",
    "devices",
    "webhooks",
)
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
        async with (
            self._looking
        ):  # two looks at once would see each other's messages in the broker's counters
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
            checks |= _Work(self._settings, self._database, self._keys, self._now).checks()
        examined = await asyncio.gather(*(checked(name, checks[name]) for name in CHECKS if name in only))
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
        return looked([problem(self._fault or NO_DATABASE, where=judged.WHERE, advice=advice)])


class _Work:
    """The checks that ask the database."""

    def __init__(
        self, settings: Settings, database: Database, keys: frozenset[str], now: Callable[[], datetime]
    ) -> None:
        self._settings = settings
        self._database = database
        self._keys = keys
        self._now = now
        self._server: Once[ServerFacts] = Once(lambda: inspection.server(database))
        self._replicas: Once[Replicas] = Once(
            lambda: inspection.replicas(database, silent_seconds=SILENT_SECONDS)
        )
        self._destinations: Once[list[Destination]] = Once(
            lambda: inspection.destinations(database, limit=MAX_DESTINATIONS)
        )

    def checks(self) -> Mapping[str, Check]:
        """By name, in order."""
        return {name: getattr(self, f"_check_{name}") for name in OF_THE_DATABASE}

    async def _check_database(self) -> Looked:
        return judged.judge_server(await self._server())

    async def _check_migrations(self) -> Looked:
        return judged.judge_migrations(*await inspection.schema(self._database))

    async def _check_sessions(self) -> Looked:
        settings = self._settings
        pool, partitions = settings.database.pool_size, settings.broker.partitions
        # its pool, a commit for each partition and the leases, the HTTP process, its life, and what is told
        # to it
        needs = pool + min(partitions, 8) + 1 + max(3, pool // 2) + 2
        here = (await self._replicas()).here
        return judged.judge_sessions(await self._server(), replica_needs=needs, replicas=here)

    async def _check_transactions(self) -> Looked:
        found = await inspection.transactions(
            self._database, open_seconds=judged.OPEN_SECONDS, waiting_seconds=WAITING_SECONDS
        )
        return judged.judge_transactions(found, sees_all=(await self._server()).sees_all)

    async def _check_replication(self) -> Looked:
        server = await self._server()
        hosts = len(each_host(self._settings.database.dsn.get_secret_value()))
        return judged.judge_replication(
            server, await inspection.followers(self._database), hosts=hosts, sees_all=server.sees_all
        )

    async def _check_disk(self) -> Looked:
        server = await self._server()
        return judged.judge_disk(server, machine.disk_of(server))

    async def _check_vacuum(self) -> Looked:
        tables = await inspection.tables(self._database, dead_rows=judged.DEAD_ROWS)
        return judged.judge_bloat(await self._server(), tables)

    async def _check_clocks(self) -> Looked:
        before, asked = self._now(), clock.monotonic()
        server = await inspection.server(self._database)
        took = clock.monotonic() - asked
        offset = (server.at - before).total_seconds() - took / 2
        ours = judged.judge_database_clock(offset, took / 2)
        systems = work.judge_systems_clocks(await self._skews())
        return looked((*ours.findings, *systems.findings), (*ours.unseen, *systems.unseen))

    async def _skews(self) -> Mapping[str, float | None]:
        """How far the clocks of systems are ahead, by their address."""
        wanted = {
            f"{urlsplit(text).scheme}://{urlsplit(text).netloc}/": reach_of(
                self._settings, each.customer, each.origin
            )
            for each in await self._destinations()
            for text in each.settings.values()
            if isinstance(text, str) and text.startswith(("http://", "https://")) and "@" not in text
        }

        async def skew(url: str) -> float | None:
            said = await date_of(url, wanted[url])
            return None if said is None else (said - self._now()).total_seconds()

        urls = sorted(wanted)[:MAX_ADDRESSES]
        return dict(zip(urls, await asyncio.gather(*map(skew, urls)), strict=True))

    async def _check_certificates(self) -> Looked:
        settings = self._settings
        files = {
            "broker.ca_file": settings.broker.ca_file,
            "broker.client_certificate": settings.broker.client_certificate,
            **{
                f"{each.connection}: settings.{name}": str(each.settings[name])
                for each in await self._destinations()
                for name in named_files(dict(each.settings))
            },
        }
        found = [
            each for where, path in files.items() if path is not None for each in machine.in_file(path, where)
        ]
        servers: list[tuple[str, str, int]] = []
        secure = [url for url in settings.broker.urls if url.startswith("mqtts://")]
        servers += [("broker.url", url, 8883) for url in secure]
        if settings.http.public_url.startswith("https://"):
            servers.append(("http.public_url", settings.http.public_url, 443))
        unseen: list[str] = []
        for where, url, port in servers:
            shown: Certificate | None = await machine.of_server(url, where, port)
            if shown is None:
                unseen.append(f"the certificate of {where}: {url} cannot be reached from here")
            else:
                found.append(shown)
        return work.judge_certificates(found, unseen, self._now())

    async def _check_credentials(self) -> Looked:
        now = self._now()
        ending = await inspection.ending(self._database, until=now + timedelta(days=work.CREDENTIAL_DAYS))
        return work.judge_credentials(ending, now)

    async def _check_keys(self) -> Looked:
        in_use = await credentials.keys_in_use(self._database)
        return work.judge_keys(((each.key_id, each.records, each.connection) for each in in_use), self._keys)

    async def _check_credits(self) -> Looked:
        return work.judge_credits(await ledger.read(self._database))

    async def _check_replicas(self) -> Looked:
        here, lease = await self._replicas(), self._settings.sync.lease.total_seconds()
        return work.judge_leases(
            await inspection.leases(self._database, lease_seconds=lease),
            here.held,
            replicas=here.here,
            partitions=self._settings.broker.partitions,
            lease_seconds=lease,
        )

    async def _check_connections(self) -> Looked:
        seen = await observed.read(self._database, connections=MAX_UNWELL, customers=0)
        names = [
            each.connection
            for each in seen.connections
            if each.state in UNWELL or each.lag_seconds > work.LAG_SECONDS
        ]
        lags = {each.connection: each.lag_seconds for each in seen.connections}
        unwell = [
            Unwell(
                connection=each.connection,
                state=each.state,
                since=each.since,
                reason=each.reason,
                lag_seconds=lags[each.connection],
            )
            for each in await Views(self._database).status(names)
        ]
        return work.judge_connections(unwell, seen.unwell_left_out, self._now())

    async def _check_streams(self) -> Looked:
        stuck = await inspection.stuck(self._database, seconds=work.STUCK_SECONDS)
        return work.judge_streams(stuck, replicas=(await self._replicas()).here)

    async def _check_retention(self) -> Looked:
        now, kept = self._now(), self._settings.telemetry
        overdue = await inspection.overdue(self._database, before=(now - kept.retention).date())
        return work.judge_retention(overdue, now, kept.buffer or kept.retention)

    async def _check_devices(self) -> Looked:
        facts = await inspection.devices(
            self._database, silent_seconds=work.SILENT_SECONDS, forgotten_seconds=work.FORGOTTEN_SECONDS
        )
        return work.judge_devices(facts, self._now())

    async def _check_webhooks(self) -> Looked:
        found = [
            Hook(
                endpoint=each.id,
                url=each.url,
                pending=each.pending,
                failing_since=each.failing_since,
                last_error=each.last_error,
                disabled_at=each.disabled_at,
                disabled_reason=each.disabled_reason,
            )
            for each, _ in await webhooks.read(self._database)
        ]
        return work.judge_webhooks(found, self._now())
