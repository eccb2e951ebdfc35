"""What the doctor sees of the database, of clocks and certificates, and of the gateway's own work: each fault
is made on a real server, and a system that is well gives none.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from benchmarks.servers import Mosquitto, Postgres, free_port, wait_until
from gateway import clock
from gateway.credentials.vault import Vault
from gateway.doctor import CHECKS, Doctor, database_checks
from gateway.doctor.database_checks import OF_THE_DATABASE
from gateway.model import diagnosis_database as judged
from gateway.model import diagnosis_work as work
from gateway.model.connector import Connector
from gateway.model.diagnosis import Finding, Looked, Severity
from gateway.model.diagnosis_database import DiskFacts, Follower, judge_disk, judge_replication
from gateway.model.errors import BadConfiguration, StoreForbidden
from gateway.settings import DatabaseSettings, Settings
from gateway.store import inspection, webhooks
from gateway.store.migrate import migrate
from gateway.store.pool import Database
from gateway.store.presence import Presence
from gateway.store.troubles import Troubles
from tests.contract.pki import make_authority
from tests.fixtures.connection_rig import KEY, World, settings

KEYS = frozenset(Vault([KEY]).key_ids)


async def looked(
    database: Database | None, check: str, wanted: Settings | None = None, **options: Any
) -> Looked:
    """What one check sees."""
    doctor = Doctor(wanted or settings(), database=database, **{"keys": KEYS, **options})
    report = await doctor.examine([check])
    [each] = report.checks
    return each.looked


async def findings(database: Database, check: str, *words: str, **options: Any) -> list[Finding]:
    """What one check finds; the first of it says these words."""
    seen = await looked(database, check, **options)
    assert seen.findings, seen
    for word in words:
        assert word in f"{seen.findings[0].what} @ {seen.findings[0].where} > {seen.findings[0].advice}"
    return list(seen.findings)


@asynccontextmanager
async def session(dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def execute(dsn: str, *statements: str) -> None:
    async with session(dsn) as connection:
        for statement in statements:
            await connection.execute(statement)


@pytest.fixture(scope="module")
def own_server() -> Iterator[Postgres]:
    """A server whose settings a test may change; `fsync` is on."""
    server = Postgres(
        max_connections="40", max_prepared_transactions="5", wal_level="logical", archive_mode="on"
    )
    asyncio.run(_prepared(server))
    yield server
    asyncio.run(server.kill())  # an orderly end waits for the log that a test lets nobody archive
    server.remove()


async def _prepared(server: Postgres) -> None:
    await server.start()
    database = await Database.open(await server.create("fieldgate"), size=2)
    await migrate(database)
    await database.close()


@pytest.fixture
async def own(own_server: Postgres) -> AsyncIterator[Database]:
    """A migrated database of it."""
    database = await Database.open(own_server.dsn("fieldgate"), size=4)
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def setting(server: Postgres, name: str, value: str) -> AsyncIterator[None]:
    """The server has this setting."""
    async with session(server.dsn()) as connection:

        async def set_to(statement: str, wanted: Callable[[str], bool]) -> None:
            await connection.execute(statement)
            await connection.execute("select pg_reload_conf()")

            async def is_in_force() -> bool:
                return wanted(await connection.fetchval("select current_setting($1)", name))

            await wait_until(is_in_force, what=f"{name} is in force")

        await set_to(f"alter system set {name} = '{value}'", lambda now: now == value)
        try:
            yield
        finally:
            await set_to(f"alter system reset {name}", lambda now: now != value)


async def active(database: Database, **changes: Any) -> World:
    """A connection that is active."""
    world = World(database, settings=settings(**changes))
    await world.engine.prepare()
    return await world.active()


# the server


async def test_a_server_that_is_well_gives_nothing(own: Database) -> None:
    for check in ("database", "migrations", "sessions", "transactions", "replication", "vacuum", "clocks"):
        seen = await looked(own, check)
        assert seen == Looked(), check
    seen = await looked(own, "disk")
    assert not seen.unseen, "the data directory is on this machine"


@pytest.mark.parametrize("name", ["fsync", "full_page_writes"])
async def test_a_server_that_may_lose_what_it_acknowledged(
    own_server: Postgres, own: Database, name: str
) -> None:
    async with setting(own_server, name, "off"):
        [found] = await findings(own, "database", name)
        assert found.severity is Severity.PROBLEM


async def test_synchronous_commit_that_somebody_took_off(dsn: str) -> None:
    await execute(dsn, f"alter database {dsn.rpartition('/')[2]} set synchronous_commit = off")
    database = await Database.open(dsn, size=2)
    try:
        found = await findings(database, "database")
        assert any("synchronous_commit" in each.what for each in found)
    finally:
        await database.close()


async def test_migrations_that_are_missing_or_of_a_newer_version(database: Database, dsn: str) -> None:
    await execute(dsn, "delete from migration where name like '0031%'")
    [found] = await findings(database, "migrations", "0031", "fieldgate migrate")
    await execute(dsn, "insert into migration (name) values ('9999_tomorrow')")
    newer, _ = await findings(database, "migrations", "9999_tomorrow", "newer")
    assert found.severity is newer.severity is Severity.PROBLEM


async def test_sessions_that_are_too_few(database: Database, dsn: str) -> None:
    name = dsn.rpartition("/")[2]
    await execute(dsn, f"alter database {name} connection limit 12")
    await findings(database, "sessions", "the database's connection limit leaves 12")


async def test_sessions_that_are_taken(own_server: Postgres, own: Database) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(33):
            await stack.enter_async_context(session(own_server.dsn()))
        found = await findings(own, "sessions")
        assert any("sessions are taken" in each.what for each in found)


async def test_transactions_that_hold_others_back(
    own_server: Postgres, own: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, database = own_server, own
    monkeypatch.setattr(judged, "OPEN_SECONDS", 0.05)
    monkeypatch.setattr(judged, "PREPARED_SECONDS", 0.0)
    monkeypatch.setattr(database_checks, "WAITING_SECONDS", 0.05)
    async with session(server.dsn("fieldgate")) as holder:
        await holder.execute("begin")
        await holder.execute("lock table customer in access exclusive mode")
        async with session(server.dsn("fieldgate")) as waiter:
            waiting = asyncio.ensure_future(waiter.fetch("select * from customer"))

            async def both() -> bool:
                texts = [each.what for each in (await looked(database, "transactions")).findings]
                return len(texts) == 2 and "open for" in texts[0] and "waits for a lock" in texts[1]

            await wait_until(both, what="both are seen")
            await holder.execute("prepare transaction 'forgotten'")
            [*_, found] = await findings(database, "transactions")
            assert "prepared transaction forgotten" in [
                each.where for each in (await looked(database, "transactions")).findings
            ]
            await holder.execute("rollback prepared 'forgotten'")
            await waiting
            assert found.advice


async def test_a_role_that_sees_its_own_sessions_only_says_so(own_server: Postgres) -> None:
    await execute(
        own_server.dsn(), "create role gateway login password 'g'", "create database gateway owner gateway"
    )
    dsn = f"postgresql://gateway:g@127.0.0.1:{own_server.port}/gateway"
    database = await Database.open(dsn, size=3)
    try:
        await migrate(database)
        doctor = Doctor(settings(), database=database, keys=KEYS)
        report = await doctor.examine(["database", "transactions", "disk", "vacuum", "replication"])
        assert report.is_healthy
        unseen = {each.check: each.looked.unseen for each in report.checks}
        assert "pg_read_all_stats" in unseen["transactions"][0] and "disk" in unseen["disk"][0]
    finally:
        await database.close()


async def test_a_role_that_owns_nothing_is_told_once_what_it_needs(own_server: Postgres) -> None:
    await execute(own_server.dsn(), "create role stranger login password 's'", "create database gateways")
    own = await Database.open(own_server.dsn("gateways"), size=2)
    stranger = await Database.open(f"postgresql://stranger:s@127.0.0.1:{own_server.port}/gateways", size=2)
    try:
        await migrate(own)
        report = await Doctor(settings(), database=stranger, keys=KEYS).examine(
            ["migrations", "credentials", "credits"]
        )
        [found] = [found for each in report.checks for found in each.looked.findings]
        assert "permission denied" in found.what and "owner" in found.advice
        with pytest.raises(StoreForbidden, match="reassign owned"):
            await migrate(stranger)
    finally:
        await own.close()
        await stranger.close()


async def test_standbys_that_are_named_and_do_not_follow(own_server: Postgres, own: Database) -> None:
    async with setting(own_server, "synchronous_standby_names", "b"):
        [found] = await findings(own, "replication", "every commit waits", "'b'")
        assert found.severity is Severity.PROBLEM


async def test_several_hosts_and_no_standby(own_server: Postgres, own: Database) -> None:
    hosts = f"postgresql://postgres:x@127.0.0.1:{own_server.port},127.0.0.1:1/fieldgate"
    wanted = settings().model_copy(update={"database": DatabaseSettings(dsn=SecretStr(hosts))})
    await findings(own, "replication", "no standby follows", wanted=wanted)


async def test_a_slot_that_nobody_reads(
    own_server: Postgres, own: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judged, "SLOT_BYTES", 1000)
    await execute(
        own_server.dsn("fieldgate"),
        "select pg_create_physical_replication_slot('left', true)",
        "create table filler as select generate_series(1, 1000) as n",
    )
    await findings(own, "replication", "replication slot left", "pg_drop_replication_slot('left')")
    await execute(own_server.dsn("fieldgate"), "select pg_drop_replication_slot('left')")


async def test_a_log_that_cannot_be_archived(own_server: Postgres, own: Database) -> None:
    async with setting(own_server, "archive_command", "false"):
        await execute(
            own_server.dsn("fieldgate"), "insert into customer values ('written')", "select pg_switch_wal()"
        )

        async def is_seen() -> bool:
            return any("archiving" in each.what for each in (await looked(own, "disk")).findings)

        await wait_until(is_seen, what="archiving fails", every=0.2)


async def test_a_disk_that_is_nearly_full(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judged, "FREE_WARNING", 1.0)
    await findings(database, "disk", "are free", "telemetry.retention")
    server = await inspection.server(database)
    [full] = judge_disk(server, DiskFacts(total=100 << 30, free=1 << 30)).findings
    assert full.severity is Severity.PROBLEM


async def test_vacuum_that_does_not_come(
    own_server: Postgres, own: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judged, "DEAD_ROWS", 500)
    async with setting(own_server, "autovacuum", "off"):
        await execute(
            own_server.dsn("fieldgate"),
            "create table left_alone as select generate_series(1, 1000) as n",
            "delete from left_alone",
            "select pg_stat_force_next_flush()",
        )

        async def is_seen() -> bool:
            return len((await looked(own, "vacuum")).findings) == 2

        await wait_until(is_seen, what="dead rows are counted")
        off, dead = await findings(own, "vacuum", "autovacuum is off")
        assert dead.where == "table left_alone" and off.severity is Severity.PROBLEM
    await execute(own_server.dsn("fieldgate"), "drop table left_alone")


async def test_a_clock_that_is_wrong(database: Database) -> None:
    def ahead() -> Any:
        return clock.now() + timedelta(seconds=30)

    await findings(database, "clocks", "behind this machine's", now=ahead)
    assert (await looked(database, "clocks")).findings == ()


async def test_a_database_that_takes_no_writes_is_told_with_all_else(dsn: str, mosquitto: Mosquitto) -> None:
    wanted = settings(broker={"url": mosquitto.url})
    report = await Doctor(wanted, database=None, keys=KEYS, fault="no host takes writes").examine()
    assert [each.check for each in report.checks] == list(CHECKS)
    found = {each.check: each.looked.findings for each in report.checks if each.looked.findings}
    assert list(found) == ["database"] and found["database"][0].what == "no host takes writes"
    assert all(
        each.looked.unseen for each in report.checks if each.check in OF_THE_DATABASE.keys() - {"database"}
    )


async def test_a_check_that_fails_is_a_finding_and_ends_no_other(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(inspection, "devices", broken)
    report = await Doctor(settings(), database=database, keys=KEYS).examine(["devices", "credits", "keys"])
    found = {each.check: each.looked.findings for each in report.checks}
    assert (
        "internal error, reference" in found["devices"][0].what and "secret" not in found["devices"][0].what
    )
    assert found["keys"] == found["credits"] == ()


# files, ports, systems


async def test_certificates_that_end_soon_or_have_ended(
    database: Database, tmp_path: Path, make_mosquitto: Callable[..., Awaitable[Mosquitto]]
) -> None:
    authority = make_authority("ours")  # of tests: for an hour
    certificate, key = authority.issue("localhost")
    ended, _ = authority.issue("ended", expired=True)
    for name, text in {
        "server.crt": certificate,
        "server.key": key,
        "ended.crt": ended,
        "no.crt": "nothing",
    }.items():
        (tmp_path / name).write_text(text)
    broker = await make_mosquitto(f"certfile {tmp_path}/server.crt\nkeyfile {tmp_path}/server.key")
    wanted = settings(
        broker={
            "url": f"mqtts://localhost:{broker.port}",
            "ca_file": str(tmp_path / "ended.crt"),
            "client_certificate": str(tmp_path / "no.crt"),
            "client_key": str(tmp_path / "server.key"),
        },
        http={"public_url": "https://127.0.0.1:1"},
    )
    seen = await looked(database, "certificates", wanted)
    assert [(each.severity, each.what.partition(" 20")[0][:30]) for each in seen.findings] == [
        (Severity.PROBLEM, "the certificate ended"),
        (Severity.PROBLEM, "no certificate can be read: Un"),
        (Severity.WARNING, "the certificate ends in 0 days"),
    ]
    assert "http.public_url" in seen.unseen[0]


async def test_the_authority_of_a_connection_is_looked_at(database: Database, tmp_path: Path) -> None:
    world = await active(database)
    (tmp_path / "ca.crt").write_text(make_authority("theirs").pem)
    await world.execute(
        "update connection set settings = jsonb_build_object('ca_file', $1::text)", str(tmp_path / "ca.crt")
    )
    await findings(database, "certificates", "acme-1: settings.ca_file")


async def test_a_port_that_another_program_has(database: Database, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        wanted = settings(http={"listen": f"127.0.0.1:{port}", "metrics_listen": f"127.0.0.1:{free_port()}"})
        accepting = asyncio.get_running_loop().run_in_executor(None, lambda: taken.accept()[0].close())
        [found] = await findings(database, "ports", "http.listen", wanted=wanted)
        await accepting
        assert "in use" in found.what
        assert (await looked(database, "ports", wanted, serves=True)).findings == ()


async def test_a_systems_clock_is_asked_for(database: Database) -> None:
    world = await active(database)
    dates = {"right": clock.now(), "wrong": clock.now() + timedelta(minutes=10)}
    shown = {"date": dates["wrong"]}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        date = shown["date"].strftime("%a, %d %b %Y %H:%M:%S GMT")
        writer.write(f"HTTP/1.1 401 Unauthorized\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()

    asked: list[bytes] = []
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    await world.execute(
        "update connection set settings = jsonb_build_object('base_url', $1::text)", f"{url}api"
    )
    async with server:
        [found] = await findings(database, "clocks", "10 min ahead of", url)
        assert found.severity is Severity.WARNING
        shown["date"] = dates["right"]
        assert await looked(database, "clocks") == Looked()
        assert asked[0].startswith(b"HEAD / ") and b"uthorization" not in asked[0]
        await world.execute("update connection set origin = 'bound'")
        count = len(asked)
        assert url in (await looked(database, "clocks")).unseen[0], "a customer's word leads to no loopback"
        assert len(asked) == count


# the gateway's own work


async def test_a_credential_that_ends_soon(database: Database) -> None:
    world = await active(database)
    assert (await looked(database, "credentials")).findings == ()
    await world.execute("update credential set expires_at = now() + interval '3 days'")
    [soon] = await findings(database, "credentials", "acme-1", "reauthorize")
    await world.execute("update credential set expires_at = now() - interval '3 days'")
    [over] = await findings(database, "credentials", "ended")
    assert (soon.severity, over.severity) == (Severity.WARNING, Severity.PROBLEM)


async def test_a_key_that_is_missing(database: Database) -> None:
    await active(database)
    assert (await looked(database, "keys")).findings == ()
    other = frozenset(Vault(["another key for tests, of thirty-two bytes"]).key_ids)
    await findings(database, "keys", "not configured", "acme-1", keys=other)


async def test_credits_that_do_not_reconcile_or_are_nearly_used(database: Database) -> None:
    world = await active(database, credits={"capacity": 1, "customer_quota": {"acme": 1}})
    used, quota = await findings(database, "credits", "1 of 1 credits", "credits.capacity")
    assert "customer acme uses 1 of the 1" in quota.what
    assert (used.severity, quota.severity) == (Severity.PROBLEM, Severity.WARNING)
    await world.execute("update credit_pool set posted = posted + 1")
    [wrong, *_] = await findings(database, "credits", "do not reconcile")
    assert wrong.severity is Severity.PROBLEM


async def test_credits_that_are_left_are_no_finding(database: Database) -> None:
    await active(database)
    assert await looked(database, "credits") == Looked()


async def test_nobody_that_does_the_work(database: Database) -> None:
    [found] = await findings(database, "replicas", "no gateway is running")
    assert found.severity is Severity.PROBLEM


async def _here(database: Database, *names: str, seconds: float = 600) -> None:
    """A replica is here, and somebody has these leases."""
    async with database.connection() as connection:
        await connection.execute(
            "insert into announced_replica (replica_id) values ('r') on conflict do nothing"
        )
        for name in names:
            await connection.execute(
                "insert into lease (name, owner, lease_until, fence) values ($1, 'r/1', now() +"
                " in_seconds($2), 1)",
                name,
                seconds,
            )


async def test_leases_that_nobody_has_and_those_of_the_dead(database: Database) -> None:
    await _here(database, *work.ROLES, "ingest/0", seconds=10)
    async with Presence(database, "r/1", lease_seconds=15).shown():

        async def is_shown() -> bool:
            async with database.connection() as connection:
                return bool(await connection.fetchval("select count(*) from replica where life is not null"))

        await wait_until(is_shown, what="the replica shows itself")
        assert await looked(database, "replicas") == Looked()
        two = settings(broker={"partitions": 2})
        [found] = await findings(database, "replicas", "partition 1", wanted=two)
        assert found.severity is Severity.PROBLEM
    async with database.connection() as connection:
        assert await connection.fetchval("select count(*) from lease where lease_until > now()") == 5

    async def are_orphans() -> bool:  # its session ends a moment after it
        found = (await looked(database, "replicas")).findings
        return [each.where for each in found if "is gone" in each.what] == [
            f"lease {name}" for name in sorted((*work.ROLES, "ingest/0"))
        ]

    await wait_until(are_orphans, what="what the dead one holds is seen", seconds=8)


async def test_a_lease_that_a_clock_made_endless(database: Database) -> None:
    await _here(database, *work.ROLES, "ingest/0", seconds=10)
    async with database.connection() as connection:
        await connection.execute(
            "update lease set lease_until = now() + interval '3 days' where name = 'outbox'"
        )
    await findings(database, "replicas", "lease outbox", "clock")


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("reauthorization_required", "new credentials are required"),
        ("blocked", "blocked for"),
        ("degraded", "degraded for"),
    ],
)
async def test_connections_that_need_somebody(database: Database, state: str, said: str) -> None:
    world = await active(database)
    assert await looked(database, "connections") == Looked()
    await world.execute(
        "update connection set state = $1, reason = 'why', since = now() - interval '2 hours'", state
    )
    [found] = await findings(database, "connections", said, "why", "acme-1")
    assert found.severity is (Severity.WARNING if state == "degraded" else Severity.PROBLEM)


async def test_a_connection_that_cannot_be_built_is_found_although_its_state_is_good(
    database: Database,
) -> None:
    """Its settings were good for the version that stored them."""
    world = await active(database)

    def build(_: object) -> Connector:
        raise BadConfiguration("settings.url: expected https")

    world.system.build = build  # type: ignore[method-assign]
    await world.execute("update connection set configuration = configuration + 1")
    await world.engine.lifecycle.refresh()
    assert await world.state() == "active"
    [found] = await findings(database, "connections", "cannot be built", "expected https", "acme-1")
    assert found.severity is Severity.PROBLEM
    await world.execute("update connection set state = 'disconnected'")
    assert await looked(database, "connections") == Looked()


async def test_what_has_stood_in_the_way_of_a_connection_for_an_hour_is_found(database: Database) -> None:
    world = await active(database)
    await Troubles(database).note("acme-1", "run", "internal error, reference 7")
    assert await looked(database, "connections") == Looked()
    await world.execute("update connection_trouble set since = now() - interval '2 hours'")
    [found] = await findings(database, "connections", "reference 7", "run", "2 h", "acme-1")
    assert found.severity is Severity.WARNING


async def test_streams_that_nobody_works_on(database: Database) -> None:
    world = await active(database)
    assert await looked(database, "streams") == Looked()
    await world.execute("update stream set next_run_at = now() - interval '1 hour', last_error = 'oops'")
    [found, *_] = await findings(database, "streams", "acme-1", "oops", "start one")
    assert "60 min" in found.what


async def test_days_that_are_kept_or_cannot_be_dropped(database: Database) -> None:
    world = await active(database)
    day = clock.now().date() - timedelta(days=40)
    await world.execute(
        f"create table telemetry_{day:%Y%m%d} partition of telemetry for values from ('{day}') to"
        f" ('{day + timedelta(days=1)}')"
    )
    wanted = settings(telemetry={"retention": "30d", "buffer": "60d"})
    [stays] = await findings(database, "retention", "was not dropped", wanted=wanted)
    await world.execute(
        "insert into due_window (connection_id, meter, window_start, phase, closes_at) values ('acme-1', 'm',"
        " $1, 'incremental', $1)",
        clock.now() - timedelta(days=41),
    )
    [kept] = await findings(database, "retention", "kept for acme-1", wanted=wanted)
    assert stays.where == kept.where == f"table telemetry_{day:%Y%m%d}"


async def test_devices_that_are_silent(database: Database) -> None:
    seen = await looked(database, "devices")
    assert not seen.findings and "no device was ever heard" in seen.unseen[0] and not seen.made
    async with database.connection() as connection:
        await connection.execute("insert into customer values ('acme')")
        for name, hours in (("well", 0), ("silent", 48), ("forgotten", 24 * 60)):
            await connection.execute("insert into device (customer_id, device_id) values ('acme', $1)", name)
            await connection.execute(
                "insert into device_state values ('acme', $1, now() - $2 * interval '1 hour', now(), '{}')",
                name,
                float(hours),
            )
    [found] = await findings(database, "devices", "1 of 3 devices", "acme/silent")
    assert found.severity is Severity.WARNING
    async with database.connection() as connection:
        await connection.execute(
            "update device_state set last_seen_at = now() - interval '3 hours' where device_id = 'well'"
        )
    [found] = await findings(database, "devices", "nothing was received from any of 3 devices")
    assert found.severity is Severity.PROBLEM


async def test_webhooks_that_fail_or_are_disabled(database: Database) -> None:
    await webhooks.create(
        database, "hook", customer=None, url="https://hooks.example/x", types=(), sealed=b"s"
    )
    assert await looked(database, "webhooks") == Looked()
    async with database.connection() as connection:
        await connection.execute(
            "update webhook_endpoint set failing_since = now() - interval '2 hours', last_error = 'answered"
            " 500'"
        )
    [failing] = await findings(database, "webhooks", "hooks.example", "answered 500")
    async with database.connection() as connection:
        await connection.execute("update webhook_endpoint set disabled_at = now(), disabled_reason = 'gone'")
    [disabled] = await findings(database, "webhooks", "disabled since", "fieldgate webhooks enable hook")
    assert (failing.severity, disabled.severity) == (Severity.WARNING, Severity.PROBLEM)


async def test_a_report_is_kept_for_who_asks_at_once(database: Database, mosquitto: Mosquitto) -> None:
    doctor = Doctor(settings(broker={"url": mosquitto.url}), database=database, keys=KEYS, serves=True)
    one, two = await asyncio.gather(doctor.report(), doctor.report())
    assert one is two


def test_a_standby_that_is_behind_is_judged() -> None:
    behind = Follower(what="standby", name="b", detail="catchup", holds=False, seconds=300, bytes=0)
    server = judged.ServerFacts(
        version=160_000, at=clock.now(), is_read_only=False, fsync=True, full_page_writes=True, synchronous_commit="on",
        autovacuum=True, synchronous_standbys="", server_sessions=100, used_sessions=1, role_sessions=-1, database_sessions=-1,
        transaction_age=judged.TRANSACTION_AGE + 1, sees_all=True, data_directory=None, is_local=True, bytes=1, archiving_fails=False,
    )  # fmt: skip
    [found] = judge_replication(server, [behind], hosts=1, sees_all=True).findings
    assert "5 min behind" in found.what and found.where == "standby b"
    [old] = judged.judge_bloat(server, []).findings
    assert "transactions old" in old.what
