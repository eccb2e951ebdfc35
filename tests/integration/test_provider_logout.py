"""The identity provider says that somebody was logged out there: their sessions here end, nobody else's do, and
nobody but the provider says so.

What the lies are: OpenID Connect Back-Channel Logout 1.0, 2.4 to 2.8.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from joserfc import jws
from structlog.testing import capture_logs

from connectors.kit.identity import IdentityCalls
from gateway import clock
from gateway.http.entrance import MAX_FAILURES
from gateway.identity.id_token import LOGOUT_EVENT
from gateway.model.access import Principal, Role
from gateway.model.errors import Unavailable
from gateway.model.identity import LOGIN_SECONDS, ProvenLogin, ProvenLogout
from gateway.store import access
from tests.fixtures.connection_rig import World
from tests.fixtures.http_rig import served
from tests.fixtures.oauth_server import PEOPLE, OAuthServer
from tests.integration.test_provider_login import (
    ISSUER,
    JANE,
    LIES_OF_ANY_TOKEN,
    Forger,
    ago,
    changed,
    come_back,
    leave,
    oidc,
    real,
    shown,
    visitor,
    without,
    world,
)

__all__ = ["real", "world"]  # the fixtures
LOGOUT = "/login/oidc/backchannel-logout"


async def enter(
    world: World,
    subject: str,
    sid: str | None,
    *,
    name: str,
    issuer: str = ISSUER,
    issued_at: datetime | None = None,
) -> str:
    """Somebody is logged in; the secret of the session."""
    login = ProvenLogin(
        principal=Principal(name=name, role=Role.VIEWER, customer=name),
        issuer=issuer,
        subject=subject,
        sid=sid,
        issued_at=issued_at or clock.now(),
        next_path="/",
        state=secrets.token_hex(8),
        void_at=clock.now() + timedelta(minutes=5),
        lasts=timedelta(hours=1),
    )
    session = await access.finish_login(world.database, login)
    assert session is not None
    return session.secret


async def logged_in(world: World) -> list[str]:
    return [row["name"] for row in await world.rows("select name from dashboard_session order by name")]


def logout_claims(**values: Any) -> dict[str, Any]:
    return {
        "iss": ISSUER,
        "aud": PEOPLE["client_id"],
        "iat": ago(0),
        "exp": ago(-120),
        "jti": secrets.token_hex(8),
        "events": {LOGOUT_EVENT: {}},
        **values,
    }


def told(forger: Forger, **values: Any) -> str:
    """The logout token that the forger makes of claims."""
    claims = logout_claims(**values)
    forger.forge(claims)
    return forger.sign(forger, claims)


async def say(client: httpx.AsyncClient, token: str, **headers: str) -> httpx.Response:
    answer = await client.post(LOGOUT, data={"logout_token": token}, headers=headers)
    assert answer.headers["cache-control"] == "no-store"
    return answer


@asynccontextmanager
async def three(world: World, forger: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Jane is logged in by two of her sessions at the provider, John of another customer by his."""
    await enter(world, "jane-1", "a", name="jane-a")
    await enter(world, "jane-1", "b", name="jane-b")
    await enter(world, "john-2", "c", name="john-c")
    async with visitor(world, forger, oidc()) as client:
        yield client


# By a provider that we did not write


async def test_whom_a_real_provider_logs_out_is_logged_out_here(world: World, real: OAuthServer) -> None:
    async with visitor(world, IdentityCalls(), oidc(real.issuer)) as client:
        await real.lever(claims={**JANE, "sid": "first"})
        left = await client.get("/login/oidc")
        entered = await client.get(await real.visit(left.headers["location"]))
        assert entered.status_code == 200 and (await client.get("/access")).status_code == 200
        (kept,) = await world.rows("select issuer, subject, sid from dashboard_session")
        assert tuple(kept.values()) == (real.issuer, "1", "first")
        claims = logout_claims(iss=real.issuer, sub="1", sid="second")
        assert (await say(client, (await real.lever(sign=claims))["signed"])).status_code == 200
        assert (await client.get("/access")).status_code == 200, "another session of hers"
        claims = logout_claims(iss=real.issuer, sub="1", sid="first")
        with capture_logs() as said:
            answer = await say(client, (await real.lever(sign=claims))["signed"])
        assert (answer.status_code, answer.content) == (200, b"")
        assert (await client.get("/access")).status_code == 303
    ended = [(one["by"], one["name"]) for one in said if one["event"] == "http.logged_out"]
    assert ended == [("oidc", "jane@acme.example")]


# By one that lies, or says it oddly


@pytest.mark.parametrize(
    ("values", "left"),
    [
        ({"sub": "jane-1"}, ["john-c"]),
        ({"sid": "a"}, ["jane-b", "john-c"]),
        ({"sub": "jane-1", "sid": "a"}, ["jane-b", "john-c"]),
        ({"sub": "jane-1", "sid": "c"}, ["jane-a", "jane-b", "john-c"]),
        ({"sub": "john-2", "sid": "a"}, ["jane-a", "jane-b", "john-c"]),
        ({"sub": "nobody"}, ["jane-a", "jane-b", "john-c"]),
        ({"aud": [PEOPLE["client_id"]], "sub": "john-2"}, ["jane-a", "jane-b"]),
    ],
    ids=str,
)
async def test_the_sessions_that_are_named_end_and_no_others(
    world: World, values: Mapping[str, Any], left: list[str]
) -> None:
    forger = Forger()
    async with three(world, forger) as client:
        assert (await say(client, told(forger, **values))).status_code == 200
    assert await logged_in(world) == left


async def test_a_session_of_which_less_is_known_ends_rather_than_stays(world: World) -> None:
    """The provider named no session at the login; who came by a token or by another provider is not meant."""
    forger = Forger()
    await enter(world, "jane-1", None, name="unnamed")
    await enter(world, "jane-1", "a", name="elsewhere", issuer="https://other.example")
    secret = await access.create_login(world.database, name="local", role=Role.ADMIN)
    await access.redeem_login(world.database, secret)
    async with visitor(world, forger, oidc()) as client:
        assert (await say(client, told(forger, sid="a"))).status_code == 200
        assert await logged_in(world) == ["elsewhere", "local", "unnamed"]
        assert (await say(client, told(forger, sub="jane-1", sid="a"))).status_code == 200
    assert await logged_in(world) == ["elsewhere", "local"]


async def test_a_token_that_comes_again_ends_no_session_that_began_since(world: World) -> None:
    forger = Forger()
    async with three(world, forger) as client:
        token = told(forger, sub="jane-1")
        assert (await say(client, token)).status_code == 200
        await enter(world, "jane-1", "d", name="jane-d")
        for _ in range(2):
            assert (await say(client, token)).status_code == 200  # it was done: a provider may ask twice
        assert await logged_in(world) == ["jane-d", "john-c"]
        assert (await say(client, told(forger, sub="jane-1"))).status_code == 200
    assert await logged_in(world) == ["john-c"]


@pytest.mark.parametrize("values", [{"sub": "jane-1"}, {"sid": "s"}, {"sub": "jane-1", "sid": "s"}], ids=str)
async def test_a_login_on_its_way_begins_no_session_after_the_logout(
    world: World, values: Mapping[str, Any]
) -> None:
    forger = Forger()
    async with visitor(world, forger, oidc()) as client:
        state = await leave(client, forger)
        forger.forge = changed(sid="s", iat=ago(10))
        assert (await say(client, told(Forger(), **values, iat=ago(5)))).status_code == 200
        with capture_logs() as said:
            refused = await come_back(client, state)
        assert refused.status_code == 403 and "logged out there meanwhile" in shown(refused)
        assert [one["reason"] for one in said if one["event"] == "http.login_refused"] == ["logged_out"]
        assert await logged_in(world) == []
        state = await leave(client, forger)
        forger.forge = changed(sid="s", iat=ago(0))
        assert (await come_back(client, state)).status_code == 200, "who logs in again is let in"


@pytest.mark.parametrize(
    "logout",
    [
        {"subject": "john-2"},
        {"sid": "other"},
        {"subject": "jane-1", "sid": "other"},
        {"issuer": "https://other.example"},
    ],
    ids=str,
)
async def test_a_logout_of_others_keeps_nobody_out(world: World, logout: Mapping[str, Any]) -> None:
    at = clock.now()
    values = {"issuer": ISSUER, "subject": None, "sid": None, **logout}
    if "issuer" in logout:
        values["subject"] = "jane-1"
    await access.end_sessions(
        world.database, ProvenLogout(**values, issued_at=at, token_id="x", void_at=at + timedelta(days=1))
    )
    await enter(world, "jane-1", "s", name="jane", issued_at=at - timedelta(seconds=1))
    assert await logged_in(world) == ["jane"]


async def test_a_logout_is_remembered_for_as_long_as_a_login_may_take(world: World) -> None:
    at = clock.now()
    early = ProvenLogout(
        issuer=ISSUER, subject="jane-1", sid=None, issued_at=at, token_id="x", void_at=at + timedelta(days=1)
    )
    await access.end_sessions(world.database, early)
    [[left]] = [row.values() for row in await world.rows("select void_at - now() from finished_logout")]
    assert timedelta(seconds=LOGIN_SECONDS - 60) < left <= timedelta(seconds=LOGIN_SECONDS)
    await world.execute("update finished_logout set void_at = now() - interval '1 s'")
    await enter(world, "jane-1", "s", name="jane", issued_at=at)
    await access.end_sessions(world.database, replace(early, subject="john-2", token_id="y"))
    assert len(await world.rows("select 1 from finished_logout")) == 1, "the old one is swept"


async def test_a_login_and_a_logout_at_the_same_moment_leave_no_session(world: World) -> None:
    """Whichever comes first: the login is refused, or its session ends."""
    for number in range(20):
        at = clock.now()
        logout = ProvenLogout(
            issuer=ISSUER,
            subject="jane-1",
            sid=None,
            issued_at=at,
            token_id=str(number),
            void_at=at + timedelta(days=1),
        )
        await asyncio.gather(
            enter(world, "jane-1", "s", name="jane", issued_at=at - timedelta(seconds=1)),
            access.end_sessions(world.database, logout),
            return_exceptions=True,
        )
        assert await logged_in(world) == []
        await world.execute("delete from finished_logout")


def typed(kind: str) -> Callable[[Forger, dict[str, Any]], str]:
    def sign(forger: Forger, claims: dict[str, Any]) -> str:
        header = {"alg": "RS256", "kid": "one", "typ": kind}
        return jws.serialize_compact(header, json.dumps(claims), forger.key, algorithms=["RS256"])

    return sign


@pytest.mark.parametrize("kind", ["logout+jwt", "application/logout+jwt", "JWT"])
async def test_what_providers_call_their_logout_tokens_is_understood(world: World, kind: str) -> None:
    forger = Forger(sign=typed(kind))
    async with three(world, forger) as client:
        assert (await say(client, told(forger, sub="jane-1"))).status_code == 200
    assert await logged_in(world) == ["john-c"]


LIES: Mapping[str, tuple[Forger, str]] = {
    **LIES_OF_ANY_TOKEN,
    "another audience": (Forger(changed(aud="another")), "not_trusted"),
    "no audience": (Forger(without("aud")), "not_trusted"),
    "several audiences": (Forger(changed(aud=[PEOPLE["client_id"], "another"])), "not_trusted"),
    "no time": (Forger(without("iat")), "not_trusted"),
    "of long ago, for ever": (Forger(changed(iat=ago(90_000), exp=ago(-1e9))), "expired"),
    "no token at all": (Forger(sign=lambda *_: ""), "not_trusted"),
    "a nonce": (Forger(changed(nonce="n")), "not_trusted"),
    "a nonce of nothing": (Forger(changed(nonce=None)), "not_trusted"),
    "no events": (Forger(without("events")), "not_trusted"),
    "no event of ours": (Forger(changed(events={"urn:other": {}})), "not_trusted"),
    "an event that is no object": (Forger(changed(events={LOGOUT_EVENT: True})), "not_trusted"),
    "a list of events": (Forger(changed(events=[LOGOUT_EVENT])), "not_trusted"),
    "no id of its own": (Forger(without("jti")), "not_trusted"),
    "an id that is no text": (Forger(changed(jti=7)), "not_trusted"),
    "nobody": (Forger(without("sub")), "not_trusted"),
    "a session that is no text": (Forger(changed(sid=["a"])), "not_trusted"),
    "a subject that cannot be stored": (Forger(changed(sub="jane-1\0")), "not_trusted"),
    "an access token": (Forger(sign=typed("at+jwt")), "not_trusted"),
}


async def test_a_lie_logs_nobody_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.http.entrance.MAX_FAILURES", 1_000)  # or the 21st would have to wait
    wrong = {}
    for name in ("a", "b"):
        await enter(world, "jane-1", name, name=f"jane-{name}")
    async with visitor(world, Forger(), oidc()) as client:
        for lie, (forger, reason) in LIES.items():
            with capture_logs() as said:
                refused = await say(client, told(forger, sub="jane-1"))
            reasons = [one["reason"] for one in said if one["event"] == "http.logout_refused"]
            error = refused.json().get("error") if refused.status_code == 400 else None
            if (error, reasons) != ("invalid_request", [reason]) or len(await logged_in(world)) != 2:
                wrong[lie] = (refused.status_code, reasons, await logged_in(world))
    assert not wrong


async def test_an_id_token_logs_nobody_out_and_a_logout_token_nobody_in(world: World) -> None:
    forger = Forger(changed(events={LOGOUT_EVENT: {}}, jti="x"))
    async with visitor(world, forger, oidc()) as client:
        state = await leave(client, forger)
        assert (await come_back(client, state)).status_code == 200, "the same claims, and the nonce"
        id_token = told(forger, sub="jane-1", nonce=forger.nonce)
        assert (await say(client, id_token)).status_code == 400
        assert len(await logged_in(world)) == 1
        forger.forge = lambda claims: (claims.pop("nonce", None), claims.update(logout_claims()))
        assert (await come_back(client, await leave(client, forger))).status_code == 403


async def test_wrong_tokens_count_against_the_address_and_a_browser_is_not_heard(world: World) -> None:
    forger = Forger()
    async with three(world, forger) as client:
        for _ in range(MAX_FAILURES + 1):
            asked = await say(client, "x", **{"sec-fetch-site": "cross-site"})
            assert asked.status_code == 403
        assert (await client.post(LOGOUT, json={"logout_token": "x"})).status_code == 400
        for _ in range(MAX_FAILURES - 1):
            assert (await say(client, "x")).status_code == 400
        assert (await say(client, "x")).status_code == 429
        assert len(await logged_in(world)) == 3
        # the provider asks once: a good token of the same address is not refused for the others
        assert (await say(client, told(forger, sub="jane-1"))).status_code == 200
    assert len(await logged_in(world)) < 3


async def test_while_the_providers_keys_cannot_be_had_nothing_ends_and_nobody_is_blocked(
    world: World,
) -> None:
    class Away(Forger):
        async def document(self, url: str, **_: Any) -> Any:
            raise Unavailable("no answer")

    forger = Away()
    async with three(world, forger) as client:
        for _ in range(MAX_FAILURES + 1):
            answer = await say(client, told(forger, sub="jane-1"))
            assert (answer.status_code, answer.json()["error"]) == (400, "temporarily_unavailable")
    assert len(await logged_in(world)) == 3


async def test_without_a_provider_nobody_is_logged_out(world: World) -> None:
    async with served(world) as client:
        assert (await client.post(LOGOUT, data={"logout_token": "x"})).status_code == 404
