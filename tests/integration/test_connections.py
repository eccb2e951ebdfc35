"""The life of a connection on a real database: created, verified, refused, given new credentials, paused,
ended.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.servers import PATIENCE, wait_until
from gateway.configuration import DeclaredConnection
from gateway.connections import candidates, ending, lifecycle, next_look
from gateway.connections.apply import apply, carry_out, prepare
from gateway.meter_settings import MeterSettings
from gateway.model.connector import ProbeResult
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    ConfigError,
    ConnectorError,
    OutcomeUnknown,
    PermissionDenied,
    RateLimited,
    RequestRefused,
    Unavailable,
)
from gateway.model.moving import MoveStage
from gateway.model.operation import Operation
from gateway.model.sample import to_microseconds
from gateway.settings import ConnectionPatch, ConnectionSyncSettings, CreditsSettings
from gateway.store import moving, probes
from gateway.store.connections import register_customers
from gateway.store.credits import sync_capacity
from gateway.store.pool import Database
from gateway.store.telemetry import TelemetryStore
from tests.fixtures.connection_rig import CALLER, World, credentials, settings, wanted
from tests.fixtures.fleet import pass_time
from tests.fixtures.scripted import Scripted


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(next_look, "RETRY_CAP_SECONDS", 0.02)
    monkeypatch.setattr(ending, "DRAIN_SECONDS", 0.02)


@pytest.fixture(autouse=True)
async def _pool(database: Database) -> None:
    await sync_capacity(database, CreditsSettings())


async def test_a_created_connection_is_verified_and_becomes_active(database: Database) -> None:
    world = World(database)
    await world.execute("insert into customer values ('acme')")
    await world.execute("insert into device (customer_id, device_id) values ('acme', 'd1')")
    await world.service.create(wanted(), CALLER)
    assert await world.state() == "verifying"
    async with world.living():
        await world.reaches("active")
    moves = await world.rows(
        "select from_state, to_state, trigger, actor, request_id from connection_audit order by audit_id"
    )
    assert [tuple(move.values()) for move in moves] == [
        ("pending", "verifying", "credentials_given", "test", "r-1"),
        ("verifying", "active", "probe_succeeded", "gateway", None),
    ]
    assert await world.events() == ["connection.created", "connection.activated"]
    assert await world.issues() == [] and world.connector.probes == 1
    assert [row["phase"] for row in await world.rows("select phase from stream order by phase")] == [
        "incremental",
        "initial",
    ]


@pytest.mark.parametrize(
    "error", [AuthRefused("bad key"), PermissionDenied("no right"), BadConfiguration("no such service")]
)
async def test_a_first_verification_that_is_refused_waits_for_better_credentials(
    database: Database, error: ConnectorError
) -> None:
    world = World(database, Scripted(probe_error=error))
    await world.service.create(wanted(), CALLER)
    async with world.living():
        await world.reaches("pending")
        assert await world.events() == ["connection.created", "connection.verification_failed"]
        assert await world.issues() == ["verification_failed"]
        for _ in range(10):
            await world.rows("select 1")
        assert world.connector.probes == 1
        await world.service.recheck("acme-1", CALLER)
        await wait_until(lambda: world.connector.probes == 2, what="another look was asked for")
        await world.reaches("pending")
        world.connector.probe_error = None
        await world.service.give_credentials("acme-1", credentials("key-2"), CALLER)
        await world.reaches("active")
    assert await world.issues() == []
    assert world.system.built[-1].credentials == {"api_key": "key-2"}


async def test_a_system_that_is_away_is_probed_again(database: Database) -> None:
    world = World(database, Scripted(probe_error=Unavailable("not yet")))
    await world.service.create(wanted(), CALLER)
    async with world.living():
        await wait_until(lambda: world.connector.probes >= 3, what="three probes")
        assert await world.state() == "verifying"
        world.connector.probe_error = None
        await world.reaches("active")


async def told(world: World) -> list[tuple[str, str]]:
    rows = await world.rows("select part, detail from connection_trouble")
    return [(row["part"], row["detail"]) for row in rows]


async def nothing_is_told(world: World) -> None:
    async def is_over() -> bool:
        return await told(world) == []

    await wait_until(is_over, what="no trouble is shown any more")


@pytest.mark.parametrize("error", [Unavailable, OutcomeUnknown, AuthRefused, TimeoutError])
async def test_a_verification_that_goes_on_says_what_it_waits_for(
    database: Database, monkeypatch: pytest.MonkeyPatch, error: type[ConnectorError | TimeoutError]
) -> None:
    """Its state says that credentials were given, for ten minutes, whatever the system answers."""
    monkeypatch.setattr(candidates, "PROBE_SECONDS", 0.05)

    class Away(Scripted):
        is_well = False

        async def probe(self) -> ProbeResult:
            if self.is_well:
                return ProbeResult()
            if error is AuthRefused:
                raise AuthRefused("a web page answered", doubtful=True)
            if issubclass(error, ConnectorError):
                raise error("the system answered 302")
            return await asyncio.Event().wait() or ProbeResult()

    system = Away()
    world = World(database, system)
    await world.service.create(wanted(), CALLER)
    says = {AuthRefused: "a web page answered", TimeoutError: "no answer within 0.05 s"}
    async with world.living():

        async def is_told() -> bool:
            return await told(world) == [("verification", says.get(error, "the system answered 302"))]

        await wait_until(is_told, what="the status says what the verification meets")
        assert await world.state() == "verifying"
        system.is_well = True
        await world.reaches("active")
        await nothing_is_told(world)


async def test_a_verification_that_only_meets_failures_is_put_off_and_tried_again(database: Database) -> None:
    world = World(database, Scripted(probe_error=Unavailable("away")))
    await world.service.create(wanted(), CALLER)
    await world.execute("update connection set verify_until = now()")
    async with world.living():
        await world.reaches("pending")
        await nothing_is_told(world)  # the state says it

        async def is_put_off() -> bool:  # in a statement of its own, after the state
            rows = await world.rows(
                "select from connection where candidate = 1 and probe_at > now() + interval '14 minutes'"
            )
            return len(rows) == 1

        await wait_until(is_put_off, what="it is looked at again later")
        assert await world.issues() == []
        world.connector.probe_error = None
        await world.due_now()
        await world.reaches("active")


async def test_a_probe_that_never_answers_ends(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "PROBE_SECONDS", 0.05)

    class Hung(Scripted):
        async def probe(self) -> ProbeResult:
            self.probes += 1
            if self.probes < 3:
                await asyncio.Event().wait()
            return ProbeResult()

    world = World(database, Hung())
    await world.service.create(wanted(), CALLER)
    async with world.living():
        await world.reaches("active")


async def test_a_refused_push_is_confirmed_by_a_probe_and_then_nothing_is_called(database: Database) -> None:
    world = await World(database).active()
    world.connector.probe_error = AuthRefused("revoked", request_id="up-7")
    link = world.engine.links.get("acme-1")
    assert link is not None
    before = world.connector.probes
    await world.engine.health.failed(link, AuthRefused("revoked", request_id="up-7"), attempts=1)
    assert await world.state() == "reauthorization_required" and world.connector.probes == before + 1
    assert (await world.events())[-1] == "connection.reauthorization_required"
    (issue,) = await world.rows("select * from issue where solved_at is null")
    assert issue["instructions"] == "Ask the script for a new key." and issue["request_id"] == "up-7"
    async with world.living():
        await world.due_now()
        turn = await world.rows("select 1")
        for _ in range(20):
            turn = await world.rows("select 1")
        assert turn and world.connector.probes == before + 1
    assert link.generation == 1


@pytest.mark.parametrize(
    "found",
    [None, Unavailable("503"), RateLimited("slow", retry_after=1.0), AuthRefused("log in", doubtful=True)],
)
async def test_a_refusal_that_no_probe_confirms_asks_nobody(
    database: Database, found: ConnectorError | None
) -> None:
    world = await World(database).active()
    world.connector.probe_error = found
    link = world.engine.links.get("acme-1")
    assert link is not None
    await world.engine.health.failed(link, AuthRefused("401"), attempts=1)
    assert await world.state() == "active" and await world.issues() == []


async def test_final_refusals_need_no_probe(database: Database) -> None:
    world = await World(database).active()
    link = world.engine.links.get("acme-1")
    assert link is not None
    before = world.connector.probes
    await world.engine.health.failed(link, AuthRefused("invalid_grant", final=True), attempts=1)
    assert await world.state() == "reauthorization_required" and world.connector.probes == before


async def test_web_pages_are_believed_only_after_five_minutes_of_nothing_else(database: Database) -> None:
    world = await World(database).active()
    link = world.engine.links.get("acme-1")
    assert link is not None
    page = AuthRefused("a web page", doubtful=True)
    for attempts in range(1, 6):
        await world.engine.health.failed(link, page, attempts=attempts)
    assert await world.state() == "degraded"
    await world.execute("update call_health set suspect_since = now() - interval '6 minutes'")
    await world.engine.health.failed(
        link, Unavailable("503"), attempts=6
    )  # something else answered: it begins anew
    await world.engine.health.failed(link, page, attempts=7)
    assert await world.state() == "degraded"
    await world.execute("update call_health set suspect_since = now() - interval '6 minutes'")
    await world.engine.health.failed(link, page, attempts=8)
    assert await world.state() == "degraded"  # a probe with the same credential is let in
    world.connector.probe_error = page
    await world.engine.health.failed(link, page, attempts=9)
    assert await world.state() == "reauthorization_required"


async def test_news_about_an_older_credential_move_nothing(database: Database) -> None:
    world = await World(database).active()
    old = world.engine.links.get("acme-1")
    assert old is not None
    async with world.living():
        await world.service.give_credentials("acme-1", credentials("key-2"), CALLER)
        await world.reaches("active")
    await world.engine.health.failed(old, AuthRefused("the old one", final=True), attempts=1)
    assert await world.state() == "active"


async def test_new_credentials_of_another_account_are_refused_and_the_issue_stays(database: Database) -> None:
    class Accounts(Scripted):
        account = "a"

        async def probe(self) -> ProbeResult:
            self.probes += 1
            return ProbeResult(account=self.account)

    connector = Accounts()
    world = await World(database, connector).active()
    link = world.engine.links.get("acme-1")
    assert link is not None
    (before,) = await world.rows("select watermark::text, fence from stream where phase = 'incremental'")
    await world.engine.health.failed(link, AuthRefused("gone", final=True), attempts=1)
    connector.account = "b"
    async with world.living():
        await world.service.give_credentials("acme-1", credentials("key-b"), CALLER)
        await world.reaches("reauthorization_required")
        await wait_until(lambda: connector.probes >= 2, what="the other account was probed")
        assert await world.issues() == ["reauthorization_required"]
        connector.account = "a"
        await world.service.give_credentials("acme-1", credentials("key-a"), CALLER)
        await world.reaches("active")
    assert (await world.events())[2:] == [
        "connection.reauthorization_required",
        "connection.reauthorization_started",
        "connection.reauthorization_failed",
        "connection.reauthorization_started",
        "connection.reauthorized",
    ]
    (after,) = await world.rows("select watermark::text, fence from stream where phase = 'incremental'")
    assert after == before and await world.issues() == []


async def test_older_generations_of_a_credential_are_gone_after_a_successful_verification(
    database: Database,
) -> None:
    world = await World(database).active()
    async with world.living():
        for number in (2, 3):
            await world.service.give_credentials("acme-1", credentials(f"key-{number}"), CALLER)
            await world.reaches("active")
    assert await world.rows("select generation from credential") == [{"generation": 3}]


@pytest.mark.parametrize("state", ["blocked", "verifying"])
@pytest.mark.parametrize("answer", [None, AuthRefused("no such key")], ids=["well", "refused"])
async def test_a_verification_that_comes_late_does_nothing_to_the_credential_after_it(
    database: Database, answer: AuthRefused | None, state: str
) -> None:
    """Its replica stood still in the probe; two credentials later the connection has moved on."""

    class Slow(Scripted):
        asked, go = asyncio.Event(), asyncio.Event()

        async def probe(self) -> ProbeResult:
            self.probes += 1
            if self.probes == 2:
                self.asked.set()
                await self.go.wait()
                if answer is not None:
                    raise answer
            return ProbeResult()

    connector = Slow()
    world = await World(database, connector).active()
    await world.service.give_credentials("acme-1", credentials("key-2"), CALLER)
    lifecycle = world.engine.lifecycle
    [due] = await probes.claim(database, lease_seconds=60, limit=10)
    late = asyncio.create_task(lifecycle._candidates.verify(due))
    await asyncio.wait_for(connector.asked.wait(), 10 * PATIENCE)
    async with world.living():
        for key in ("key-3", "key-4"):
            await world.service.give_credentials("acme-1", credentials(key), CALLER)
            await world.reaches("active")
    held = await world.rows("select generation from credential")
    await world.execute(
        "update connection set state = $1, operation = 'probe', probe_at = now() + interval '1 hour'", state
    )
    connector.go.set()
    await asyncio.wait_for(late, 10 * PATIENCE)
    assert await world.rows("select generation from credential") == held == [{"generation": 4}]
    assert await world.state() == state


async def test_a_mistyped_credential_does_not_stop_what_works(database: Database) -> None:
    world = await World(database).active()
    refusing, built = Scripted(probe_error=AuthRefused("no such key")), world.system.build
    world.system.build = lambda settings: (
        refusing if settings.credentials["api_key"] == "tpyo" else built(settings)
    )  # type: ignore[method-assign]
    async with world.living():
        await world.service.change("acme-1", ConnectionPatch(credentials=credentials("tpyo")), CALLER)
        await wait_until_true(world, "select count(*) = 1 as yes from issue where solved_at is null")
        await world.reaches("active")
    (row,) = await world.rows("select generation, candidate from connection")
    assert row == {"generation": 1, "candidate": None}
    assert "connection.verification_failed" in await world.events() and await world.issues() == [
        "verification_failed"
    ]


async def test_an_idle_connection_is_probed_and_a_revoked_credential_found(database: Database) -> None:
    world = await World(
        database, settings=settings(sync={"probe_interval": timedelta(milliseconds=50)})
    ).active()
    async with world.living():
        await wait_until(lambda: world.connector.probes >= 4, what="idle probes")
        assert await world.state() == "active"
        world.connector.probe_error = AuthRefused("revoked")
        await world.reaches("reauthorization_required")
    seen = world.connector.probes
    async with world.living():
        for _ in range(20):
            await world.due_now()
    assert world.connector.probes == seen


async def test_transient_failures_degrade_and_one_success_recovers(database: Database) -> None:
    world = await World(database).active()
    link = world.engine.links.get("acme-1")
    assert link is not None
    for attempts in (1, 2):
        await world.engine.health.failed(link, Unavailable("503"), attempts=attempts)
        assert await world.state() == "active"
    await world.engine.health.failed(link, Unavailable("503"), attempts=3)
    assert await world.state() == "degraded"
    await world.engine.health.succeeded(link)
    assert await world.state() == "active"
    await world.engine.health.failed(link, Unavailable("503"), attempts=1)
    assert await world.state() == "active"
    await pass_time(database, 61)
    await world.engine.health.failed(link, Unavailable("503"), attempts=1)
    assert await world.state() == "degraded"
    assert (await world.events())[2:] == [
        "connection.degraded",
        "connection.recovered",
        "connection.degraded",
    ]


async def test_a_denied_probe_blocks_when_another_is_denied_too_and_is_looked_at_hourly(
    database: Database,
) -> None:
    world = await World(database).active()
    link = world.engine.links.get("acme-1")
    assert link is not None
    how = {"attempts": 1, "operation": Operation.PROBE}
    await world.engine.health.failed(link, PermissionDenied("not this"), **how)  # type: ignore[arg-type]
    assert await world.state() == "active"
    world.connector.probe_error = PermissionDenied("nothing")
    await world.engine.health.failed(link, PermissionDenied("not this"), **how)  # type: ignore[arg-type]
    assert await world.state() == "blocked" and await world.issues() == ["blocked"]
    seen = world.connector.probes
    async with world.living():
        await wait_until_true(world, "select probe_at > now() + interval '60 minutes' as yes from connection")
        assert world.connector.probes == seen  # it was confirmed a moment ago
        await world.due_now()
        await wait_until(lambda: world.connector.probes > seen, what="one look")
        await wait_until_true(world, "select probe_at > now() + interval '60 minutes' as yes from connection")
        assert world.connector.probes == seen + 1
        world.connector.probe_error = None
        await world.service.recheck("acme-1", CALLER)
        await world.reaches("active")
    assert (await world.events())[-2:] == [
        "connection.blocked",
        "connection.unblocked",
    ] and await world.issues() == []


async def wait_until_true(world: World, query: str) -> None:
    async def holds() -> bool:
        return bool((await world.rows(query))[0]["yes"])

    await wait_until(holds, what=query)


async def test_paused_is_called_by_nobody_and_goes_back_to_where_it_was(database: Database) -> None:
    world = await World(
        database, settings=settings(sync={"probe_interval": timedelta(milliseconds=20)})
    ).active()
    await world.service.pause("acme-1", CALLER)
    await world.service.pause("acme-1", CALLER)
    seen = world.connector.probes
    async with world.living():
        for _ in range(20):
            await world.due_now()
        assert world.connector.probes == seen and await world.state() == "paused"
    with pytest.raises(RequestRefused) as refused:
        await world.service.give_credentials("acme-1", credentials("k"), CALLER)
    assert refused.value.code == "connection.paused"
    await world.service.resume("acme-1", CALLER)
    await world.service.resume("acme-1", CALLER)
    assert await world.state() == "active"
    assert (await world.events())[2:] == ["connection.paused", "connection.resumed"]
    link = world.engine.links.get("acme-1")
    assert link is not None
    await world.engine.health.failed(link, AuthRefused("x", final=True), attempts=1)
    await world.service.pause("acme-1", CALLER)
    assert await world.issues() == ["reauthorization_required"]
    await world.service.resume("acme-1", CALLER)
    assert await world.state() == "reauthorization_required"


async def test_disconnecting_finishes_what_is_in_hand_returns_the_credits_and_keeps_the_id(
    database: Database,
) -> None:
    world = await World(database).active()
    await world.execute("update stream set lease_owner = 'x', lease_until = now() + interval '1 minute'")
    await world.service.disconnect("acme-1", CALLER)
    await world.service.disconnect("acme-1", CALLER)
    async with world.living():
        for _ in range(10):
            await world.due_now()
        assert await world.state() == "disconnecting"
        await world.execute("update stream set lease_until = now()")
        await world.reaches("disconnected")
    assert (
        await world.rows("select * from stream") == [] and await world.rows("select * from credential") == []
    )
    assert (await world.events())[-1] == "connection.disconnected"
    (transfer,) = await world.rows(
        "select from_account, to_account, amount from credit_transfer order by transfer_id desc limit 1"
    )
    (row,) = await world.rows("select price from connection")
    assert (
        transfer == {"from_account": "posted", "to_account": "available", "amount": row["price"]}
        and row["price"] > 0
    )
    with pytest.raises(RequestRefused) as taken:
        await world.service.create(wanted(), CALLER)
    assert taken.value.code == "request.conflict"
    await world.engine.lifecycle.refresh()
    assert world.engine.links.get("acme-1") is None


async def test_a_probe_that_is_under_way_does_not_put_off_what_was_asked_meanwhile(
    database: Database,
) -> None:
    class Slow(Scripted):
        asked, go = asyncio.Event(), asyncio.Event()

        async def probe(self) -> ProbeResult:
            self.probes += 1
            if self.probes == 2:  # the first idle one
                self.asked.set()
                await self.go.wait()
            return ProbeResult()

    connector = Slow()
    world = await World(database, connector).active()
    async with world.living():
        await world.due_now()
        await asyncio.wait_for(connector.asked.wait(), 10 * PATIENCE)
        await world.service.disconnect("acme-1", CALLER)
        connector.go.set()
        await world.reaches("disconnected")


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("pending", "connection.pending"),
        ("verifying", "connection.pending"),
        ("reauthorization_required", "connection.reauthorization_required"),
        ("blocked", "connection.blocked"),
        ("paused", "connection.paused"),
        ("disconnecting", "connection.disconnected"),
        ("disconnected", "connection.disconnected"),
    ],
)
async def test_a_sync_is_refused_with_the_code_of_the_state(
    database: Database, state: str, code: str
) -> None:
    world = await World(database).active()
    await world.execute("update connection set state = $1, prior_state = 'active'", state)
    with pytest.raises(RequestRefused) as refused:
        await world.service.synchronise("acme-1", full=True, caller=CALLER)
    assert refused.value.code == code


@pytest.mark.parametrize("state", ["pending", "disconnecting", "disconnected"])
async def test_dead_letters_wait_where_nothing_is_delivered_whoever_asks(
    database: Database, state: str
) -> None:
    world = await World(database).active()
    await world.execute("update connection set state = $1", state)
    with pytest.raises(RequestRefused, match="acme-1") as refused:
        await world.service.replay("acme-1", None)
    assert refused.value.code == "connection." + {"disconnecting": "disconnected"}.get(state, state)


async def test_a_full_sync_walks_the_history_again(database: Database) -> None:
    world = await World(database).active()
    await world.execute(
        "update stream set state = 'done', initial_cursor = initial_until where phase = 'initial'"
    )
    await world.service.synchronise("acme-1", full=True, caller=CALLER)
    (row,) = await world.rows(
        "select state, initial_cursor < initial_until as open from stream where phase = 'initial'"
    )
    assert row == {"state": "idle", "open": True}


async def test_a_full_sync_without_history_is_refused_and_not_silent(database: Database) -> None:
    world = await World(database).active(sync={"initial_days": 0})
    with pytest.raises(RequestRefused, match="initial_days is 0") as refused:
        await world.service.synchronise("acme-1", full=True, caller=CALLER)
    assert refused.value.code == "request.invalid"
    await world.service.synchronise("acme-1", full=False, caller=CALLER)


async def test_what_cannot_be_paid_is_not_made(database: Database) -> None:
    world = World(database, settings=settings(credits=CreditsSettings(capacity=1)))
    await world.service.create(wanted(), CALLER)
    with pytest.raises(RequestRefused) as refused:
        await world.service.create(wanted("acme-2"), CALLER)
    assert refused.value.code == "credits.insufficient"
    assert [row["connection_id"] for row in await world.rows("select connection_id from connection")] == [
        "acme-1"
    ]
    assert "credits.exhausted" in [row["type"] for row in await world.rows("select type from event")]


async def test_the_declared_file_is_applied_once_and_changes_only_what_differs(database: Database) -> None:
    world = World(database)
    item = DeclaredConnection(settings=wanted(), rules=())
    await apply(database, world.service, [item])
    async with world.living():
        await world.reaches("active")
    probes, (before,) = (
        world.connector.probes,
        await world.rows("select configuration, version from connection"),
    )
    await apply(database, world.service, [item])
    (after,) = await world.rows("select configuration, version from connection")
    assert after == before and world.connector.probes == probes
    changed = DeclaredConnection(settings=wanted(settings={"path": "/new"}), rules=())
    await apply(database, world.service, [changed])
    assert await world.state() == "verifying"
    for moved in ({"customer": "globex"}, {"system": "other"}):
        with pytest.raises(ConfigError, match="never changes"):
            await apply(
                database,
                world.service,
                [DeclaredConnection(settings=wanted().model_copy(update=moved), rules=())],
            )


async def test_a_connection_of_a_customer_that_is_expected_comes_with_it_alone(database: Database) -> None:
    """One that a file or a call makes meanwhile takes the name that the import brings, which is refused then."""
    world = World(database)
    await register_customers(database, ["acme"])
    async with database.transaction() as connection:
        await moving.expect(connection, "acme", "0123456789ab", 1)
    item = DeclaredConnection(settings=wanted(), rules=())
    refused = await apply(database, world.service, [item])
    with pytest.raises(RequestRefused) as by_call:
        await world.service.create(wanted(), CALLER)
    assert refused == {"acme-1": str(by_call.value)}
    assert "expected from another gateway" in str(by_call.value)
    assert await world.rows("select connection_id from connection") == []
    async with database.transaction() as connection:
        await moving.set_stage(connection, "acme", MoveStage.ARRIVED, "0123456789ab")
    assert await apply(database, world.service, [item]) == {}
    assert len(await world.rows("select connection_id from connection")) == 1


async def test_what_is_declared_is_in_force_whatever_changes_while_it_is_applied(database: Database) -> None:
    """A change by HTTP, or the end of a verification, between the reading and the writing."""
    world = World(database)
    first = DeclaredConnection(settings=wanted(), rules=())
    await apply(database, world.service, [first])
    declared = [
        DeclaredConnection(settings=wanted(title="By the file"), rules=()),
        DeclaredConnection(settings=wanted("acme-2", title="By the file"), rules=()),
    ]
    work = await prepare(database, world.service, declared)
    await world.service.change("acme-1", ConnectionPatch(title="By HTTP"), CALLER)
    await world.service.create(wanted("acme-2", title="By HTTP"), CALLER)
    assert await carry_out(database, world.service, work) == {}
    rows = await world.rows("select connection_id, title, managed_by from connection order by 1")
    assert [tuple(row.values()) for row in rows] == [
        ("acme-1", "By the file", "file"),
        ("acme-2", "By the file", "file"),
    ]


async def test_one_that_is_disconnected_while_it_is_applied_is_refused(database: Database) -> None:
    world = World(database)
    await apply(database, world.service, [DeclaredConnection(settings=wanted(), rules=())])
    changed = [DeclaredConnection(settings=wanted(title="Later"), rules=())]
    work = await prepare(database, world.service, changed)
    await world.service.disconnect("acme-1", CALLER)
    assert "disconnected" in (await carry_out(database, world.service, work))["acme-1"]


async def test_replicas_that_start_together_give_a_new_credential_once(database: Database) -> None:
    worlds = [World(database, owner=f"replica-{number}") for number in range(3)]
    await asyncio.gather(
        *(
            apply(database, world.service, [DeclaredConnection(settings=wanted(), rules=())])
            for world in worlds
        )
    )
    changed = [DeclaredConnection(settings=wanted(key="key-2"), rules=())]
    refused = await asyncio.gather(*(apply(database, world.service, changed) for world in worlds))
    (row,) = await worlds[0].rows("select generations, state from connection")
    assert row == {"generations": 2, "state": "verifying"} and refused == [{}, {}, {}]


async def test_a_credential_that_a_customer_gave_is_not_overwritten_by_an_unchanged_file(
    database: Database,
) -> None:
    world = World(database)
    item = DeclaredConnection(settings=wanted(), rules=())
    await apply(database, world.service, [item])
    async with world.living():
        await world.reaches("active")
        await world.service.give_credentials("acme-1", credentials("given-by-the-customer"), CALLER)
        await wait_until_true(world, "select state = 'active' and generation = 2 as yes from connection")
        await apply(database, world.service, [item])
    (row,) = await world.rows("select generation, candidate from connection")
    assert row == {"generation": 2, "candidate": None}


async def test_two_replicas_look_at_a_connection_once(database: Database) -> None:
    world = World(database)
    other = world.replica("replica-b")
    await world.service.create(wanted(), CALLER)
    async with world.living(), other.living():
        await world.reaches("active")
    assert world.connector.probes == 1


async def test_samples_that_came_meanwhile_are_delivered_after_reauthorization(database: Database) -> None:
    world = await World(database).active()
    link = world.engine.links.get("acme-1")
    assert link is not None
    await world.engine.health.failed(link, AuthRefused("gone", final=True), attempts=1)
    at = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    sample = (("acme", "d1", to_microseconds(at)), {"t": 21.5}, to_microseconds(at))
    await TelemetryStore(database, register_customers=True).write([sample], [])
    working = asyncio.create_task(world.engine.scheduler.run())
    try:
        async with world.living():
            for _ in range(10):
                await world.due_now()
            assert world.connector.taken == []
            await world.service.give_credentials("acme-1", credentials("key-2"), CALLER)
            await wait_until(lambda: len(world.connector.taken) == 1, what="the sample is delivered")
    finally:
        await world.engine.scheduler.stop(1)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    assert [reading.value for reading in world.connector.taken] == [21.5]


async def test_changes_of_different_parts_at_once_are_both_there(database: Database) -> None:
    world = await World(database).active()
    for number in range(10):
        meters = (MeterSettings(device="*", metric="t", meter=f"{{device}}-{number}"),)
        rhythm = ConnectionSyncSettings.model_validate({"interval": f"{number + 1}s"})
        await asyncio.gather(
            world.service.change("acme-1", ConnectionPatch(meters=meters), CALLER),
            world.service.change("acme-1", ConnectionPatch(sync=rhythm), CALLER),
        )
        (row,) = await world.rows("select meters, sync from connection")
        assert row["meters"][0]["meter"] == f"{{device}}-{number}"
        assert ConnectionSyncSettings.model_validate(row["sync"]).interval == rhythm.interval
