"""Each place where one connection's work begins holds what is raised there: declarations, tokens, webhooks,
events, issues; and what a database of an older version holds already.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from benchmarks.servers import Mosquitto, wait_until
from connectors.kit.oauth import OAuthExchange
from gateway.configuration import DeclaredConnection
from gateway.connections.apply import apply
from gateway.credentials.token_refresh import Timing
from gateway.credentials.tokens import Tokens
from gateway.credentials.vault import Vault
from gateway.events.webhooks import WebhookSender
from gateway.model.access import Role
from gateway.model.credential import TokenGrant
from gateway.model.errors import RateLimited, Unavailable
from gateway.model.outcome import Outcome, Retry
from gateway.model.pressure import Pressure
from gateway.model.reading import Batch
from gateway.settings import CreditsSettings
from gateway.store import migrate as migrations
from gateway.store import outbox, retained
from gateway.store.credits import sync_capacity
from gateway.store.pool import Database
from gateway.sync.run import Runner
from gateway.sync.turns import Turns
from tests.fixtures.connection_rig import CALLER, World, wanted
from tests.fixtures.credential_rig import CONNECTION, CUSTOMER, KEY, SYSTEM, connected
from tests.fixtures.hostile_connector import RAISED, Unprintable
from tests.fixtures.http_rig import served
from tests.fixtures.scripted import Scripted
from tests.fixtures.statuses import every_status
from tests.fixtures.sync_rig import BASE, Rig
from tests.fixtures.told import append, listening, numbered
from tests.fixtures.webhook_receiver import Receiver
from tests.fixtures.webhook_rig import pending, sending, service
from tests.integration.test_relay import relaying

INTERNAL = "internal error, reference "


# Declarations


async def test_a_declaration_that_cannot_be_made_keeps_no_other(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(database)
    await sync_capacity(database, CreditsSettings())
    declared = [
        DeclaredConnection(settings=wanted(name).model_copy(update={"meters": ()}), rules=())
        for name in ("first", "odd", "last", "late")
    ]
    configuration, create = world.service.configuration, world.service.create_declared

    def odd(item: DeclaredConnection, **how: object) -> object:
        if item.settings.id == "odd":
            raise UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range")
        return configuration(item, **how)  # type: ignore[arg-type]

    async def late(item: DeclaredConnection, *how: object, **more: object) -> None:
        if item.settings.id == "late":
            raise Unprintable
        await create(item, *how, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(world.service, "configuration", odd)
    monkeypatch.setattr(world.service, "create_declared", late)
    refused = await apply(database, world.service, declared)
    assert refused.keys() == {"odd", "late"}
    assert all(reason.startswith(INTERNAL) for reason in refused.values())
    assert {row["connection_id"] for row in await world.rows("select connection_id from connection")} == {
        "first",
        "last",
    }


# Tokens

CONNECTORS = {"exit", "base", "cancelled", "a kind that says nothing", "words that are none"}
"""What the guard of a connector holds."""


@pytest.mark.parametrize("kind", sorted(RAISED.keys() - CONNECTORS))
async def test_a_token_that_cannot_be_refreshed_is_one_connections(database: Database, kind: str) -> None:
    class Odd(OAuthExchange):
        async def refresh(self, *_: object, **__: object) -> TokenGrant:
            RAISED[kind]()
            raise AssertionError

    credential = await connected(database)
    tokens = Tokens(database, Vault([KEY]), Odd(), owner="one", timing=Timing())
    source = tokens.source(CONNECTION, CUSTOMER, SYSTEM, credential.generation, credential)
    with capture_logs() as logs, pytest.raises(Unavailable) as caught:
        await source.access_token()
    assert str(caught.value).startswith(INTERNAL) and caught.value.reference is not None
    assert caught.value.reference in {
        line["reference"] for line in logs if line["event"] == "gateway.fault_contained"
    }


@pytest.mark.parametrize("seconds", [10.0**300, float("inf"), float("nan"), -(10.0**300), 10**400, 0])
async def test_a_token_of_any_lifetime_is_stored(database: Database, seconds: float) -> None:
    class Odd(OAuthExchange):
        async def refresh(self, *_: object, **__: object) -> TokenGrant:
            return TokenGrant(
                access_token="a1",
                refresh_token="r1",
                expires_in_seconds=seconds,
                refresh_expires_in_seconds=seconds,
            )

    credential = await connected(database)
    tokens = Tokens(database, Vault([KEY]), Odd(), owner="one", timing=Timing())
    source = tokens.source(CONNECTION, CUSTOMER, SYSTEM, credential.generation, credential)
    assert await source.access_token() == "a1"
    async with database.connection() as connection:
        row = await connection.fetchrow("select expires_at, refresh_expires_at from token")
    assert row is not None
    assert row["expires_at"] is None or abs(row["expires_at"].year - datetime.now(UTC).year) < 120


# Waits of runs


async def test_who_is_put_off_again_and_again_waits_longer_and_gives_up_nothing(database: Database) -> None:
    connector = Scripted()

    async def busy(batch: Batch) -> Sequence[Outcome]:
        raise RateLimited("slowly", retry_after=0.0)

    connector.answer = busy
    rig = await Rig(database, connector).activate()
    rig.settings = rig.settings.model_copy(update={"backoff_cap": timedelta(seconds=8)})
    await rig.store(("d1", BASE, 1.0))
    for count, least in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 8.0)):
        await rig.run()
        [row] = await rig.rows(
            "select put_off, attempts, state, extract(epoch from next_run_at - now())::float8 as wait from"
            " stream where phase = 'incremental'"
        )
        assert (row["put_off"], row["attempts"], row["state"]) == (count, 0, "running")
        assert least - 0.5 <= row["wait"] <= 1.3 * least + 1.0
        [shown] = await every_status(database)
        assert shown.troubles[0].detail.startswith("the system asked to wait; trying again at ")
    connector.answer = None
    engine = rig.engine
    await engine.troubles.refresh()
    runner = Runner(rig.database, rig.settings, engine.health, engine.troubles, Turns(4, Pressure()))
    await runner.run(await rig.claim(), rig.link)
    assert (await rig.stream())["put_off"] == 0 and len(connector.taken) == 1
    [shown] = await every_status(database)
    assert shown.troubles == ()


@pytest.mark.parametrize("seconds", [10.0**300, float("inf"), float("nan"), -1.0])
async def test_a_meter_that_waits_for_ever_is_stored(
    database: Database, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without a guard in between: what is stored is total."""
    monkeypatch.setattr("gateway.sync.run.RUN_SECONDS", 1.0)

    async def later(batch: Batch) -> Sequence[Outcome]:
        return [Retry(after_seconds=seconds, message="later") for _ in batch.readings]

    rig = await Rig(database, Scripted(answer=later)).activate()
    await rig.store(("d1", BASE, 1.0))
    await rig.run()
    [row] = await rig.rows("select retry_at from meter_mapping")
    assert abs(row["retry_at"].year - datetime.now(UTC).year) < 120


# What is told


async def test_an_endpoint_that_cannot_be_served_stalls_no_other(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = WebhookSender._attempt

    async def odd(self: WebhookSender, delivery: object) -> object:
        if getattr(delivery, "url", "").endswith("/odd"):
            raise Unprintable
        return await attempt(self, delivery)  # type: ignore[arg-type]

    monkeypatch.setattr(WebhookSender, "_attempt", odd)
    async with Receiver() as receiver, sending(database):
        await service(database).create(f"{receiver.url}/odd", customer=None)
        await service(database).create(receiver.url, customer=None)
        await append(database, *(numbered(number) for number in range(3)))
        await wait_until(lambda: len(receiver.received) == 3, what="the other has all")

        async def failing() -> bool:
            [one] = [
                endpoint
                for endpoint in await service(database).endpoints(customer=None)
                if endpoint.url.endswith("/odd")
            ]
            return (one.last_error or "").startswith(INTERNAL)

        await wait_until(failing, what="the one says why")
    assert await pending(database) == 3


async def test_an_event_that_cannot_be_written_stalls_its_own_connection_only(
    mosquitto: Mosquitto, database: Database
) -> None:
    await append(database, numbered(0, connection="odd"), numbered(1, connection="odder"))
    async with database.connection() as connection:
        await connection.execute("update event set data = '[1]' where connection_id = 'odd'")
        await connection.execute("update event set type = 'no.such' where connection_id = 'odder'")
    async with listening(mosquitto.port) as listener, relaying(mosquitto.port, database):
        await append(database, *(numbered(number) for number in range(3)))
        await append(database, numbered(7, connection="odd"), numbered(8, connection="odder"))
        await listener.until(lambda: len(listener.messages) >= 3)
        assert listener.numbers() == [0, 1, 2]
        async with database.connection() as connection:  # mended, it is told in its place
            await connection.execute(
                "update event set data = '{\"number\": 6}' where connection_id = 'odd' and position = "
                "(select min(position) from event where connection_id = 'odd')"
            )
            await connection.execute("update event set type = 'sync.completed' where type = 'no.such'")
        await listener.until(lambda: len(listener.messages) >= 7)
    assert listener.numbers("odd") == [6, 7] and listener.numbers("odder") == [1, 8]
    assert len(await outbox.read(database, customer=None)) == 7


async def test_an_issue_that_cannot_be_read_solves_nothing(database: Database) -> None:
    world = World(database)
    await sync_capacity(database, CreditsSettings())
    for name in ("acme-1", "acme-2"):
        await world.service.create(wanted(name), CALLER)
        await world.execute(
            "insert into issue (issue_id, connection_id, code, severity, title, instructions, action_url) "
            "values ($1, $1, 'blocked', 'error', 't', 'i', 'u')",
            name,
        )
    await world.execute("alter table issue drop constraint if exists issue_code_check")
    await world.execute("update issue set code = 'no.such' where issue_id = 'acme-1'")
    opened = await retained.open_issues(database, ["acme-1", "acme-2"])
    assert list(opened.issues) == ["acme-2"]
    assert sorted(place.issue for place in opened.places) == ["acme-1", "acme-2"]


# What was given, and what was stored before


@pytest.mark.parametrize(
    "written", ["9999-12-31T23:59:59-12:00", "never", "2026-12-31", "0001-01-01T00:00:00+14:00"]
)
async def test_the_api_refuses_an_end_that_is_no_time(database: Database, written: str) -> None:
    world = World(database)
    await sync_capacity(database, CreditsSettings())
    body = {
        "id": "acme-1",
        "customer": "acme",
        "system": "scripted",
        "credentials": {"type": "api_key", "api_key": "k", "expires_at": written},
    }
    async with served(world, Role.ADMIN) as client:
        answer = await client.post("/v1/connections", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "request.invalid")
        assert "expires_at" in answer.json()["detail"] and "zone" in answer.json()["detail"]
        body["credentials"] = {"type": "api_key", "api_key": "k"}
        assert (await client.post("/v1/connections", json=body)).status_code == 201
        given = {"type": "api_key", "api_key": "k2", "expires_at": written}
        answer = await client.patch("/v1/connections/acme-1", json={"credentials": given})
        assert (answer.status_code, answer.json()["code"]) == (422, "request.invalid")


async def test_a_certificate_without_an_end_is_stored(database: Database) -> None:
    """RFC 5280, 4.1.2.5: 99991231235959Z says that there is none."""
    from gateway.store import credentials

    await connected(database)
    async with database.transaction() as connection:
        await credentials.add(
            connection,
            connection_id=CONNECTION,
            type="client_certificate",
            sealed=b"x",
            generation=7,
            expires_at=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
        )
        found = await credentials.read(connection, connection_id=CONNECTION, generation=7)
    assert found is not None and found.expires_at is not None and found.expires_at.year == 9999


async def test_what_an_older_version_stored_is_mended(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait until the year 10792 kept the daemon from ever starting again."""
    database = await Database.open(empty_dsn, size=3)
    every = migrations.migrations()
    older = [(name, text) for name, text in every if name < "0011"]
    monkeypatch.setattr(migrations, "migrations", lambda: older)
    await migrations.migrate(database)
    async with database.connection() as connection:
        await connection.execute(
            "insert into customer values ('acme'); insert into connection (connection_id, customer_id,"
            " system, hosting, tier, state, declared_digest) values ('acme-1', 'acme', 'scripted', 'cloud',"
            " 1, 'active', ''); insert into stream (connection_id, name, phase, next_run_at) values"
            " ('acme-1', 'readings', 'incremental', now() + interval '8766 years'), ('acme-1', 'readings',"
            " 'initial', 'infinity')"
        )
    monkeypatch.setattr(migrations, "migrations", lambda: every)
    applied = await migrations.migrate(database)
    assert "0011_bulkheads" in {name.removesuffix(".sql") for name in applied}
    [found] = await every_status(database)
    assert found.next_run_at is not None and found.next_run_at <= datetime.now(UTC)
    await database.close()
