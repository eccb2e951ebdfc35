"""Refreshing a token: what is asked, what is stored and when, and what is done when things go wrong. A real
database; the exchange is scripted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from benchmarks.servers import wait_until
from gateway import metrics
from gateway.credentials.token_refresh import Timing
from gateway.credentials.tokens import Tokens
from gateway.credentials.vault import Binding, Vault
from gateway.model.credential import Credential, TokenGrant, TokenSource
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    ConnectorError,
    OutcomeUnknown,
    SealBroken,
    Unavailable,
)
from gateway.store import credentials
from gateway.store import tokens as token_store
from gateway.store.pool import Database
from tests.fixtures.credential_rig import CONNECTION, CUSTOMER, KEY, SYSTEM, connected

Step = Callable[[str | None], Awaitable[TokenGrant]]
BINDING = Binding(customer=CUSTOMER, connection=CONNECTION, field="token", generation=1)


class Script:
    """An exchange that does what the test says, in order; then grants."""

    def __init__(self, *steps: Step | ConnectorError) -> None:
        self.steps = deque(steps)
        self.asked: list[str | None] = []
        self.revoked: list[str] = []

    async def refresh(
        self, credential: Credential, refresh_token: str | None, *, timeout_seconds: float
    ) -> TokenGrant:
        assert timeout_seconds > 0
        self.asked.append(refresh_token)
        step = self.steps.popleft() if self.steps else None
        if isinstance(step, ConnectorError):
            raise step
        return grant(len(self.asked)) if step is None else await step(refresh_token)

    async def revoke(self, credential: Credential, token: str, *, timeout_seconds: float) -> None:
        self.revoked.append(token)


def grant(number: int, **changes: object) -> TokenGrant:
    values: dict[str, object] = {
        "access_token": f"a{number}",
        "refresh_token": f"r{number}",
        "expires_in_seconds": 3600.0,
        **changes,
    }
    return TokenGrant(**values)  # type: ignore[arg-type]


def tokens(database: Database, script: Script, owner: str = "one", **timing: float) -> Tokens:
    return Tokens(database, Vault([KEY]), script, owner=owner, timing=Timing(**timing))


def source(of: Tokens, credential: Credential) -> TokenSource:
    return of.source(CONNECTION, CUSTOMER, SYSTEM, credential.generation, credential)


async def stored(database: Database) -> Mapping[str, str]:
    async with database.connection() as connection:
        row = await connection.fetchrow("select * from token")
    assert row is not None
    return Vault([KEY]).open(row["sealed"], BINDING)


async def execute(database: Database, statement: str, *values: object) -> None:
    async with database.connection() as connection:
        await connection.execute(statement, *values)


def counted(outcome: str) -> float:
    return (
        metrics.REGISTRY.get_sample_value(
            "fieldgate_token_refreshes_total", {"system": SYSTEM, "outcome": outcome}
        )
        or 0.0
    )


async def test_the_first_token_comes_from_what_was_given_and_is_kept(database: Database) -> None:
    credential, script = await connected(database), Script()
    before = counted("refreshed")
    assert await source(tokens(database, script), credential).access_token() == "a1"
    assert await source(tokens(database, script, "two"), credential).access_token() == "a1"
    assert script.asked == ["r0"]
    assert (await stored(database))["refresh_token"] == "r1"
    assert counted("refreshed") == before + 1


async def test_a_client_credential_needs_no_refresh_token(database: Database) -> None:
    async def bare(_: str | None) -> TokenGrant:
        return grant(1, refresh_token=None)

    script = Script(bare, bare)
    credential = await connected(
        database, type="oauth2_client_credentials", values={"client_id": "c", "client_secret": "s"}
    )
    mine = source(tokens(database, script), credential)
    assert await mine.access_token() == "a1"
    script.steps.appendleft(lambda _: bare_second())
    assert await mine.access_token(refused="a1") == "a2"
    assert script.asked == [None, None]


async def bare_second() -> TokenGrant:
    return grant(2, refresh_token=None)


async def test_an_answer_without_a_refresh_token_keeps_the_one_before(database: Database) -> None:
    async def bare(_: str | None) -> TokenGrant:
        return grant(1, refresh_token=None)

    credential, script = await connected(database), Script(bare)
    mine = source(tokens(database, script), credential)
    await mine.access_token()
    assert (await stored(database))["refresh_token"] == "r0"
    await mine.access_token(refused="a1")
    assert script.asked == ["r0", "r0"]


async def test_a_server_that_gives_the_refused_token_again_is_not_asked_again_and_again(
    database: Database,
) -> None:
    """As those that give one session's token until it ends: the call is refused once more, and that is told."""

    async def same(_: str | None) -> TokenGrant:
        return grant(1)

    credential, script = await connected(database), Script(*[same] * 20)
    mine = source(tokens(database, script), credential)
    assert await mine.access_token() == "a1"
    assert await mine.access_token(refused="a1") == "a1"
    assert script.asked == ["r0", "r1"]
    assert await asyncio.gather(*(mine.access_token(refused="a1") for _ in range(5))) == ["a1"] * 5
    assert script.asked == ["r0", "r1", "r1"]


async def test_the_token_is_stored_before_it_is_used_and_the_row_is_written_before_it_is_asked_for(
    database: Database,
) -> None:
    seen: list[tuple[int, int]] = []

    async def look(_: str | None) -> TokenGrant:
        async with database.connection() as connection:
            row = await connection.fetchrow("select serial, fence, lease_owner from token")
            open_transactions = await connection.fetchval(
                "select count(*) from pg_stat_activity where state like 'idle in transaction%'"
            )
        assert row is not None
        assert row["lease_owner"] == "one"
        assert open_transactions == 0, "no transaction is open during the exchange"
        seen.append((row["serial"], row["fence"]))
        return grant(1)

    credential = await connected(database)
    assert await source(tokens(database, Script(look)), credential).access_token() == "a1"
    assert seen == [(0, 1)]
    assert (await stored(database))["access_token"] == "a1"


async def test_callers_may_be_cancelled_at_will(database: Database) -> None:
    going = asyncio.Event()

    async def slow(_: str | None) -> TokenGrant:
        await going.wait()
        return grant(1)

    credential, script = await connected(database), Script(slow)
    mine = source(tokens(database, script), credential)
    callers = [asyncio.create_task(mine.access_token()) for _ in range(20)]
    await wait_until(lambda: script.asked == ["r0"], what="the exchange has begun")
    for caller in callers[:19]:
        caller.cancel()
    await asyncio.wait(callers[:19])
    going.set()
    assert await callers[19] == "a1"
    assert script.asked == ["r0"]


async def test_the_only_caller_is_cancelled_and_the_token_is_not_lost(database: Database) -> None:
    going = asyncio.Event()

    async def slow(_: str | None) -> TokenGrant:
        await going.wait()
        return grant(1)

    credential, script = await connected(database), Script(slow)
    mine = tokens(database, script)
    caller = asyncio.create_task(source(mine, credential).access_token())
    await wait_until(lambda: script.asked == ["r0"], what="the exchange has begun")
    caller.cancel()
    await asyncio.wait({caller})
    going.set()
    await mine.close(5)
    assert (await stored(database))["refresh_token"] == "r1"


async def test_a_token_that_is_due_is_refreshed_beside_the_calls(database: Database) -> None:
    credential = await connected(database)
    going = asyncio.Event()

    async def slow(_: str | None) -> TokenGrant:
        await going.wait()
        return grant(2)

    script = Script()
    await source(tokens(database, script), credential).access_token()
    await execute(database, "update token set refresh_at = now() + interval '0.05 s'")
    mine = source(tokens(database, script), credential)
    assert await mine.access_token() == "a1"
    script.steps.append(slow)

    async def begun() -> bool:
        assert await mine.access_token() == "a1", "the old one is good until it expires"
        return len(script.asked) == 2

    await wait_until(begun, what="the refresh has begun")
    going.set()

    async def renewed() -> bool:
        return await mine.access_token() == "a2"

    await wait_until(renewed, what="the new token is in use")
    assert script.asked == ["r0", "r1"]


async def test_a_due_refresh_that_fails_disturbs_nobody_and_is_not_repeated_at_once(
    database: Database,
) -> None:
    credential = await connected(database)
    await source(tokens(database, Script()), credential).access_token()
    await execute(database, "update token set refresh_at = now() + interval '0.05 s'")
    script = Script(*[Unavailable("away") for _ in range(50)])
    mine = source(Tokens(database, Vault([KEY]), script, owner="one", rand=lambda: 0.0), credential)

    async def failed() -> bool:
        assert await mine.access_token() == "a1"
        return bool(script.asked)

    await wait_until(failed, what="the refresh has failed")
    await wait_until(lambda: vars(mine)["_refresh"] is None, what="the failure is known")
    assert await mine.access_token() == "a1"
    assert vars(mine)["_refresh"] is None, "another exchange waits"
    assert len(script.asked) == 1


async def test_a_lost_answer_is_asked_for_once_more_with_the_same_token(database: Database) -> None:
    credential, script = await connected(database), Script(OutcomeUnknown("cut"))
    assert await source(tokens(database, script), credential).access_token() == "a2"
    assert script.asked == ["r0", "r0"]
    twice = Script(OutcomeUnknown("cut"), OutcomeUnknown("cut"))
    with pytest.raises(Unavailable):
        await source(tokens(database, twice), credential).access_token(refused="a2")
    assert twice.asked == ["r2", "r2"]


async def test_an_answer_that_is_no_refusal_leaves_the_lease_free(database: Database) -> None:
    credential, script = (
        await connected(database),
        Script(Unavailable("503"), BadConfiguration("invalid_client", oauth_client=True)),
    )
    mine = source(tokens(database, script), credential)
    for kind in (Unavailable, BadConfiguration):
        with pytest.raises(kind):
            await mine.access_token()
    assert await mine.access_token() == "a3"


async def test_invalid_grant_is_final_and_told_to_every_replica_without_asking_again(
    database: Database,
) -> None:
    credential, script = await connected(database), Script(AuthRefused("invalid_grant", final=True))
    before = counted("refused")
    for owner in ("one", "two"):
        mine = source(tokens(database, script, owner), credential)
        for _ in range(2):
            with pytest.raises(AuthRefused, match=CONNECTION) as caught:
                await mine.access_token()
            assert caught.value.final
    assert script.asked == ["r0"]
    assert counted("refused") == before + 1


async def test_a_raced_invalid_grant_uses_the_token_that_won(database: Database) -> None:
    credential, script = await connected(database), Script()

    async def loses(_: str | None) -> TokenGrant:
        await execute(database, "update token set lease_until = now() - interval '1 s'")
        winner = source(tokens(database, script, "two", lease_seconds=0.1), credential)
        assert await winner.access_token() == "a2"
        raise AuthRefused("invalid_grant", final=True)

    script.steps.append(loses)
    assert await source(tokens(database, script), credential).access_token() == "a2"


async def test_a_lease_that_has_just_run_out_is_not_taken_before_half_its_time_again(
    database: Database,
) -> None:
    """Its holder may still have a new token to store: the database was away, not the holder."""
    credential, script = await connected(database), Script()
    seconds = 1.0
    async with database.connection() as connection:
        await connection.execute(
            "insert into token (connection_id, generation, lease_owner, lease_until, fence) values ($1, 1,"
            " 'slow', now(), 7)",
            CONNECTION,
        )
    began = asyncio.get_running_loop().time()
    assert (
        await source(tokens(database, script, "two", lease_seconds=seconds), credential).access_token()
        == "a1"
    )
    assert asyncio.get_running_loop().time() - began >= seconds / 2


async def test_a_lease_that_is_renewed_after_it_ran_out_is_not_taken(database: Database) -> None:
    """It was seen to have run out, but not under the fence that it has now."""
    await connected(database)
    async with database.connection() as connection:
        await connection.execute(
            "insert into token (connection_id, generation, lease_owner, lease_until, fence) values ($1, 1,"
            " 'slow', now(), 8)",
            CONNECTION,
        )
    for lapsed, taken in ((None, False), (7, False), (8, True)):
        claim = await token_store.claim(database, CONNECTION, 1, "two", 1.0, lapsed=lapsed)
        assert (claim is not None) is taken


async def test_a_raced_invalid_grant_is_no_matter_of_configuration_either(database: Database) -> None:
    """The winner has used the client's new secret; the loser asked with it too."""
    credential, script = await connected(database), Script()
    await source(tokens(database, script), credential).access_token()
    changed = Credential(
        generation=1, type=credential.type, values={**credential.values, "client_secret": "another"}
    )

    async def loses(_: str | None) -> TokenGrant:
        await execute(database, "update token set lease_until = now() - interval '1 s'")
        assert (
            await source(tokens(database, script, "two", lease_seconds=0.1), changed).access_token(
                refused="a1"
            )
            == "a3"
        )
        raise AuthRefused("invalid_grant", final=True)

    script.steps.append(loses)
    assert await source(tokens(database, script), changed).access_token(refused="a1") == "a3"


async def test_a_token_that_lost_its_fence_is_not_stored(database: Database) -> None:
    credential, script = await connected(database), Script()

    async def late(_: str | None) -> TokenGrant:
        await execute(database, "update token set lease_until = now() - interval '1 s'")
        assert (
            await source(tokens(database, script, "two", lease_seconds=0.1), credential).access_token()
            == "a2"
        )
        return grant(1)

    script.steps.append(late)
    assert await source(tokens(database, script), credential).access_token() == "a2"
    assert (await stored(database))["refresh_token"] == "r2"


async def test_invalid_grant_of_a_credential_that_was_replaced_refuses_nobody(database: Database) -> None:
    credential = await connected(database)

    async def replaced(_: str | None) -> TokenGrant:
        await connected(database, generation=2)
        raise AuthRefused("invalid_grant", final=True)

    with pytest.raises(Unavailable, match="replaced"):
        await source(tokens(database, Script(replaced)), credential).access_token()


async def test_a_credential_that_is_dropped_meanwhile_refuses_nobody(database: Database) -> None:
    credential = await connected(database)

    async def dropped(_: str | None) -> TokenGrant:
        await connected(database, generation=2)
        async with database.transaction() as connection:
            await credentials.drop_others(connection, connection_id=CONNECTION, keep=[2])
        return grant(1)

    mine = source(tokens(database, Script(dropped)), credential)
    for _ in range(2):
        with pytest.raises(Unavailable, match="replaced"):
            await mine.access_token()


async def test_invalid_grant_after_the_client_was_changed_is_a_matter_of_configuration(
    database: Database,
) -> None:
    credential = await connected(database)
    await source(tokens(database, Script()), credential).access_token()
    changed = Credential(
        generation=1, type=credential.type, values={**credential.values, "client_secret": "another"}
    )
    script = Script(AuthRefused("invalid_grant", final=True))
    with pytest.raises(BadConfiguration) as caught:
        await source(tokens(database, script), changed).access_token(refused="a1")
    assert caught.value.oauth_client
    assert await source(tokens(database, Script()), credential).access_token() == "a1", "nobody was refused"


async def test_without_a_refresh_token_a_person_must_be_asked(database: Database) -> None:
    credential, script = await connected(database, values={"client_id": "c", "client_secret": "s"}), Script()
    with pytest.raises(AuthRefused) as caught:
        await source(tokens(database, script), credential).access_token()
    assert caught.value.final
    assert script.asked == []


async def test_the_lease_is_renewed_while_the_answer_is_awaited(database: Database) -> None:
    credential, script = await connected(database), Script()
    going = asyncio.Event()

    async def slow(_: str | None) -> TokenGrant:
        await going.wait()
        return grant(1)

    script.steps.append(slow)
    mine, theirs = (
        source(tokens(database, script, owner, lease_seconds=0.4), credential) for owner in ("one", "two")
    )
    first = asyncio.create_task(mine.access_token())
    await wait_until(lambda: len(script.asked) == 1, what="the exchange has begun")
    second = asyncio.create_task(theirs.access_token())
    began = asyncio.get_running_loop().time()
    await wait_until(
        lambda: asyncio.get_running_loop().time() - began > 1.2, what="three times the lease is past"
    )
    going.set()
    assert await first == await second == "a1"
    assert script.asked == ["r0"]


async def test_revoking_at_the_end(database: Database) -> None:
    credential, script = await connected(database), Script()
    mine = tokens(database, script)
    assert not await mine.revoke(CONNECTION, CUSTOMER, 1, credential)
    await source(mine, credential).access_token()
    assert await mine.revoke(CONNECTION, CUSTOMER, 1, credential)
    assert script.revoked == ["r1"]


async def test_rows_that_were_swapped_do_not_open(database: Database) -> None:
    """Whoever can write to the database cannot give one connection the token or the credential of another."""
    for name in (CONNECTION, "acme-2"):
        credential = await connected(database, connection_id=name)
        await tokens(database, Script()).source(name, CUSTOMER, SYSTEM, 1, credential).access_token()
    for table in ("credential", "token"):
        await execute(
            database,
            f"update {table} t set sealed = (select sealed from {table} o where o.connection_id <>"
            " t.connection_id)",
        )
    with pytest.raises(BadConfiguration, match="was not sealed for it"):
        await source(tokens(database, Script()), credential).access_token()
    async with database.connection() as connection:
        row = await credentials.read(connection, connection_id=CONNECTION, generation=1)
    assert row is not None
    with pytest.raises(SealBroken, match="was not sealed for it"):
        Vault([KEY]).open(
            row.sealed, Binding(customer=CUSTOMER, connection=CONNECTION, field="credential", generation=1)
        )


async def test_no_log_line_no_error_and_no_row_tells_a_secret(database: Database) -> None:
    values = {"client_id": "c", "client_secret": "canary-secret", "refresh_token": "canary-refresh"}

    async def secret(_: str | None) -> TokenGrant:
        return TokenGrant(access_token="canary-access", refresh_token="canary-rotated", expires_in_seconds=60)

    credential = await connected(database, values=values)
    script = Script(Unavailable("away"), secret, AuthRefused("invalid_grant", final=True))
    mine = tokens(database, script)
    texts = []
    with capture_logs() as logs:
        for refused in (None, None, "canary-access"):
            try:
                await source(mine, credential).access_token(refused=refused)
            except ConnectorError as error:
                texts.append(f"{error!r} {error.__cause__!r}")
    async with database.connection() as connection:
        for table in ("credential", "token", "logon"):
            texts += [str(dict(row)) for row in await connection.fetch(f"select * from {table}")]
    texts += [
        str(logs),
        repr(credential),
        repr(mine),
        repr(source(mine, credential)),
        repr(vars(source(mine, credential))),
    ]
    assert len(script.asked) == 3
    assert "canary" not in " ".join(texts)


async def test_a_refresh_token_that_ends_is_known(database: Database) -> None:
    async def ends(_: str | None) -> TokenGrant:
        return grant(1, refresh_expires_in_seconds=86400.0 * 30)

    await source(tokens(database, Script(ends)), await connected(database)).access_token()
    async with database.connection() as connection:
        at = await connection.fetchval("select refresh_expires_at from token")
    assert abs(at - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=1)
