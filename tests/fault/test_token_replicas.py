"""Three processes, one refresh token that rotates, an authorization server that kills the family when one is
used twice.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from benchmarks.servers import Postgres, patient, wait_until
from connectors.kit.oauth import OAuthExchange, authorization_url
from gateway.credentials.token_refresh import Timing
from gateway.credentials.tokens import Tokens
from gateway.credentials.vault import Vault
from gateway.model.credential import Credential, TokenGrant, TokenSource
from gateway.model.errors import AuthRefused, Unavailable
from gateway.store.access import new_secret
from gateway.store.migrate import migrate
from gateway.store.pool import Database
from tests.fixtures.credential_rig import CONNECTION, CUSTOMER, KEY, SYSTEM, connected
from tests.fixtures.oauth_server import REDIRECT, WEB, OAuthServer
from tests.fixtures.token_worker import Worker

PROCESSES, CALLERS = 3, 200


async def authorized(database: Database, server: OAuthServer) -> Credential:
    """A person has let the gateway in; the first token is stored."""
    values = {**server.endpoints, **WEB, "scope": "read"}
    credential = await connected(database, values=values)
    verifier = new_secret()
    code = await server.code(
        authorization_url(values, redirect_uri=REDIRECT, state=secrets.token_hex(4), verifier=verifier)
    )
    exchange = OAuthExchange()
    grant = await exchange.redeem(
        credential, code=code, verifier=verifier, redirect_uri=REDIRECT, timeout_seconds=10
    )
    tokens = Tokens(database, Vault([KEY]), exchange, owner="callback")
    async with database.transaction() as connection:
        await tokens.adopt(
            connection, connection_id=CONNECTION, customer=CUSTOMER, credential=credential, grant=grant
        )
    return credential


@asynccontextmanager
async def workers(
    dsn: str, credential: Credential, *, cancel_within_seconds: float
) -> AsyncIterator[list[Worker]]:
    async with AsyncExitStack() as stack:
        made = [
            Worker(
                dsn,
                f"replica-{number}",
                dict(credential.values),
                callers=CALLERS,
                cancel_within_seconds=cancel_within_seconds,
            )
            for number in range(PROCESSES)
        ]
        yield list(await asyncio.gather(*map(stack.enter_async_context, made)))


@pytest.mark.parametrize(
    ("delay_seconds", "expiries"),
    [(1.0, 2), pytest.param(60.0, 3, marks=(pytest.mark.soak, pytest.mark.timeout(600)))],
)
async def test_one_token_request_per_expiry(
    database: Database, dsn: str, tmp_path: Path, delay_seconds: float, expiries: int
) -> None:
    async with OAuthServer(tmp_path) as server:
        credential = await authorized(database, server)
        async with workers(dsn, credential, cancel_within_seconds=1.2 * delay_seconds + 0.05) as replicas:
            first = await asyncio.gather(*(replica.do("all") for replica in replicas))
            [token] = {token for answer in first for token in answer["tokens"]}
            assert await server.token_requests() == 1  # the code's own
            await server.lever(delay_seconds=delay_seconds)
            cancelled = 0
            for expiry in range(1, expiries + 1):
                await server.lever(expire_access=True)
                assert await server.resource(token) == 401
                answers = await asyncio.gather(*(replica.do("all") for replica in replicas))
                cancelled += sum(answer.pop("cancelled", 0) for answer in answers)
                assert [answer.keys() for answer in answers] == [{"tokens"}] * PROCESSES, (
                    "nobody met an error"
                )
                [renewed] = {token for answer in answers for token in answer["tokens"]}
                assert renewed != token
                token = renewed
                assert await server.token_requests() == 1 + expiry
                assert await server.resource(token) == 200
            state = await server.lever()
        assert state["refused_grants"] == 0
        assert state["families"] == 1
        assert cancelled > CALLERS / 4


async def test_tokens_are_refreshed_before_they_expire(database: Database, dsn: str, tmp_path: Path) -> None:
    async with OAuthServer(tmp_path, ttl_seconds=2) as server:
        credential = await authorized(database, server)
        async with workers(dsn, credential, cancel_within_seconds=0.05) as replicas:
            answers = await asyncio.gather(*(replica.do("loop 4") for replica in replicas))
            assert not [kind for answer in answers for kind in answer if kind not in ("tokens", "cancelled")]
        async with database.connection() as connection:
            serial = await connection.fetchval("select serial from token")
        state = await server.lever()
    assert state["token_requests"] == serial, "each request is one stored grant"
    assert state["refused_grants"] == 0


@pytest.mark.parametrize("grace_seconds", [0, 120])
async def test_killed_between_the_exchange_and_the_storing(
    database: Database, dsn: str, tmp_path: Path, grace_seconds: int
) -> None:
    """The new token dies with the process. A server that answers a repetition heals it; at any other a person
    must be asked, once.
    """
    async with OAuthServer(tmp_path, grace_seconds=grace_seconds) as server:
        credential = await authorized(database, server)
        async with database.connection() as connection:
            await connection.execute("update token set refresh_at = now(), expires_at = now()")
        async with Worker(
            dsn,
            "victim",
            dict(credential.values),
            callers=1,
            cancel_within_seconds=60.0,
            hold=True,
            lease_seconds=0.5,
        ) as victim:
            assert await victim.do("all") == "exchanged"
            victim.process.kill()
            await victim.process.wait()
            tokens = Tokens(
                database, Vault([KEY]), OAuthExchange(), owner="survivor", timing=Timing(lease_seconds=0.5)
            )
            source = tokens.source(CONNECTION, CUSTOMER, SYSTEM, 1, credential)
            async with patient(10):
                if grace_seconds:
                    assert await server.resource(await source.access_token()) == 200
                else:
                    with pytest.raises(AuthRefused) as caught:
                        await source.access_token()
                    assert caught.value.final
            asked = await server.token_requests()
            other = Tokens(database, Vault([KEY]), OAuthExchange(), owner="third").source(
                CONNECTION, CUSTOMER, SYSTEM, 1, credential
            )
            if not grace_seconds:
                with pytest.raises(AuthRefused):
                    await other.access_token()
            assert await server.token_requests() == asked == 3, "what is refused is not asked for again"


class Watched(OAuthExchange):
    """Says when an answer has come."""

    def __init__(self) -> None:
        super().__init__()
        self.answered = asyncio.Event()

    async def refresh(
        self, credential: Credential, refresh_token: str | None, *, timeout_seconds: float
    ) -> TokenGrant:
        grant = await super().refresh(credential, refresh_token, timeout_seconds=timeout_seconds)
        self.answered.set()
        return grant


async def test_the_store_is_away_during_the_exchange(
    make_postgres: Callable[..., Awaitable[Postgres]], tmp_path: Path
) -> None:
    """The one token that there is waits in memory; another replica waits for it. The lease is longer than the
    outage: one that ran out long ago is anybody's.
    """
    data = await make_postgres()
    database = await Database.open(await data.create("tokens"), size=8)
    await migrate(database)
    async with OAuthServer(tmp_path) as server:
        credential, exchange = await authorized(database, server), Watched()
        sources = [
            Tokens(database, Vault([KEY]), exchange, owner=owner, timing=Timing(lease_seconds=3.0)).source(
                CONNECTION, CUSTOMER, SYSTEM, 1, credential
            )
            for owner in ("holder", "other")
        ]
        [before, _] = [await source.access_token() for source in sources]
        await server.lever(expire_access=True, delay_seconds=1.0)
        with capture_logs() as logs:
            holder = asyncio.create_task(sources[0].access_token(refused=before))

            async def asked() -> bool:
                return await server.token_requests() == 2

            await wait_until(asked, what="the exchange has begun")
            await data.kill()
            await exchange.answered.wait()
            await wait_until(
                lambda: any(entry["event"] == "connection.token_store_awaited" for entry in logs),
                what="the token waits for the store",
            )
        assert not holder.done()
        other = asyncio.create_task(insistent(sources[1], before))
        await data.start()
        async with patient(30):
            token = await holder
            assert await other == token
        assert await server.resource(token) == 200
        assert await server.token_requests() == 2
    await database.close()


async def insistent(source: TokenSource, refused: str) -> str:
    while True:
        try:
            return await source.access_token(refused=refused)
        except Unavailable:
            await asyncio.sleep(0.02)
