"""The checks that ask the database, and what they compare it with: this machine, the systems' clocks, the
configured keys. Each gathers facts; what they mean is judged by `gateway.model`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from urllib.parse import urlsplit

from connectors.kit.dates import date_of
from gateway import clock
from gateway.configuration.paths import named_files
from gateway.connections.screening import reach_of
from gateway.doctor import machine
from gateway.doctor.check import Check, Once
from gateway.model import diagnosis_database as postgres
from gateway.model import diagnosis_trust as trust
from gateway.model import diagnosis_work as work
from gateway.model.diagnosis import Looked, looked, together
from gateway.model.diagnosis_database import ServerFacts
from gateway.model.diagnosis_troubles import TROUBLE_SECONDS, judge_troubles
from gateway.model.diagnosis_trust import Certificate
from gateway.model.diagnosis_work import Hook
from gateway.model.dsn import each_host
from gateway.settings import Settings
from gateway.store import credentials, inspection, webhooks
from gateway.store import credits as ledger
from gateway.store.inspection import Destination, Replicas
from gateway.store.pool import Database

SILENT_SECONDS = 20.0
"""A replica that was not heard for so long is not there."""

WAITING_SECONDS = 60.0
MAX_UNWELL = 100
MAX_DESTINATIONS = 1_000
MAX_ADDRESSES = 20
"""Of systems whose clock is asked for."""


class DatabaseChecks:
    """Made anew for each report: what the server said is asked once for all of them."""

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
        return {name: partial(check, self) for name, check in OF_THE_DATABASE.items()}

    async def _check_database(self) -> Looked:
        return postgres.judge_server(await self._server())

    async def _check_migrations(self) -> Looked:
        return postgres.judge_migrations(*await inspection.schema(self._database))

    async def _check_sessions(self) -> Looked:
        settings = self._settings
        pool = settings.database.pool_size
        # its pool, commits and the leases of partitions, the HTTP process, its life, and what is told to it
        needs = pool + settings.broker.commits_at_once + 1 + max(3, pool // 2) + 2
        here = (await self._replicas()).here
        return postgres.judge_sessions(await self._server(), replica_needs=needs, replicas=here)

    async def _check_transactions(self) -> Looked:
        found = await inspection.transactions(
            self._database, open_seconds=postgres.OPEN_SECONDS, waiting_seconds=WAITING_SECONDS
        )
        return postgres.judge_transactions(found, sees_all=(await self._server()).sees_all)

    async def _check_replication(self) -> Looked:
        server = await self._server()
        hosts = len(each_host(self._settings.database.dsn.get_secret_value()))
        return postgres.judge_replication(
            server, await inspection.followers(self._database), hosts=hosts, sees_all=server.sees_all
        )

    async def _check_disk(self) -> Looked:
        server = await self._server()
        return postgres.judge_disk(server, machine.disk_of(server))

    async def _check_vacuum(self) -> Looked:
        tables = await inspection.tables(self._database, dead_rows=postgres.DEAD_ROWS)
        return postgres.judge_bloat(await self._server(), tables)

    async def _check_clocks(self) -> Looked:
        before, asked = self._now(), clock.monotonic()
        server = await inspection.server(self._database)
        took = clock.monotonic() - asked
        offset = (server.at - before).total_seconds() - took / 2
        ours = postgres.judge_database_clock(offset, took / 2)
        systems = trust.judge_systems_clocks(await self._skews())
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
        return trust.judge_certificates(found, unseen, self._now())

    async def _check_credentials(self) -> Looked:
        now = self._now()
        ending = await inspection.ending(self._database, until=now + timedelta(days=trust.CREDENTIAL_DAYS))
        return trust.judge_credentials(ending, now)

    async def _check_keys(self) -> Looked:
        in_use = await credentials.keys_in_use(self._database)
        return trust.judge_keys(((each.key_id, each.records, each.connection) for each in in_use), self._keys)

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
        unwell, left_out = await inspection.unwell(
            self._database, limit=MAX_UNWELL, lag_seconds=work.LAG_SECONDS
        )
        troubles = await inspection.troubles(self._database, seconds=TROUBLE_SECONDS, limit=MAX_UNWELL)
        now = self._now()
        return together([work.judge_connections(unwell, left_out, now), judge_troubles(troubles, now)])

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


OF_THE_DATABASE: Mapping[str, Callable[[DatabaseChecks], Awaitable[Looked]]] = {
    "database": DatabaseChecks._check_database,
    "migrations": DatabaseChecks._check_migrations,
    "sessions": DatabaseChecks._check_sessions,
    "transactions": DatabaseChecks._check_transactions,
    "replication": DatabaseChecks._check_replication,
    "disk": DatabaseChecks._check_disk,
    "vacuum": DatabaseChecks._check_vacuum,
    "clocks": DatabaseChecks._check_clocks,
    "certificates": DatabaseChecks._check_certificates,
    "credentials": DatabaseChecks._check_credentials,
    "keys": DatabaseChecks._check_keys,
    "credits": DatabaseChecks._check_credits,
    "replicas": DatabaseChecks._check_replicas,
    "connections": DatabaseChecks._check_connections,
    "streams": DatabaseChecks._check_streams,
    "retention": DatabaseChecks._check_retention,
    "devices": DatabaseChecks._check_devices,
    "webhooks": DatabaseChecks._check_webhooks,
}
"""By name, in the order in which they are told."""
