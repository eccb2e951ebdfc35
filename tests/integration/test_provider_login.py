"""People log in by an identity provider: by one that we did not write (django-oauth-toolkit), and by one that
lies. Nobody who is not vouched for gets a session.

What the lies are: OpenID Connect Core 1.0, 3.1.3.7 and 16; RFC 9700, 4; RFC 8725, 3.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from joserfc import jws
from joserfc.jwk import RSAKey
from structlog.testing import capture_logs

from connectors.kit.identity import IdentityCalls
from gateway.http.entrance import MAX_FAILURES
from gateway.http.services import known_customers
from gateway.identity import provider
from gateway.identity.logins import Logins
from gateway.login_settings import OidcSettings
from gateway.model.access import Role
from gateway.model.address import Reach
from gateway.model.credential import Credential
from gateway.model.errors import AuthRefused, Unavailable
from gateway.settings import TelemetrySettings
from gateway.store import access
from gateway.store.pool import Database
from tests.fixtures.connection_rig import World
from tests.fixtures.connection_rig import settings as rig_settings
from tests.fixtures.http_rig import URL, served
from tests.fixtures.oauth_server import PEOPLE, OAuthServer

ISSUER = "http://127.0.0.1:9/realm"
CALLBACK = f"{URL}/login/oidc/callback"
JANE = {"email": "jane@acme.example", "email_verified": True, "groups": ["everybody", "fieldgate-admins"]}


def oidc(issuer: str = ISSUER, **changes: Any) -> OidcSettings:
    return OidcSettings.model_validate(
        {
            "issuer": issuer,
            "client_id": PEOPLE["client_id"],
            "client_secret": PEOPLE["client_secret"],
            "title": "Acme",
            "roles": {"admin": ["fieldgate-admins"], "viewer": ["everybody"]},
            **changes,
        }
    )


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def logins(world: World, calls: Any, settings: OidcSettings) -> Logins:
    return Logins(
        settings,
        calls,
        world.engine.vault,
        public_url=URL,
        customers=lambda: known_customers(world.service.settings),
        allowed=world.settings.egress.allow,
    )


class Switch:
    """Logins by whichever provider is set, for one application: to build one for each takes half a second."""

    now: Logins

    def __getattr__(self, name: str) -> Any:
        return getattr(self.now, name)


@asynccontextmanager
async def visitor(world: World, calls: Any, settings: OidcSettings) -> AsyncIterator[httpx.AsyncClient]:
    async with served(world, logins=logins(world, calls, settings)) as client:
        yield client


def shown(answer: httpx.Response) -> str:
    """What is told on the page."""
    return answer.text.partition('role="alert"')[2].partition("</div>")[0]


async def sessions(world: World) -> list[tuple[str, str, str | None]]:
    rows = await world.rows("select name, role, customer_id from dashboard_session order by name")
    return [(row["name"], row["role"], row["customer_id"]) for row in rows]


# By a provider that we did not write


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[OAuthServer]:
    async with OAuthServer(tmp_path) as started:
        yield started


async def test_people_log_in_by_a_real_provider_with_the_role_and_the_customer_that_it_says(
    world: World, real: OAuthServer
) -> None:
    settings = oidc(
        real.issuer,
        customer_claim="company",
        customers={"ACME-01": "acme"},
        unbound=["fieldgate-admins"],
        session="2h",
    )
    async with visitor(world, IdentityCalls(), settings) as client:

        async def enter(next_path: str = "/devices", **claims: Any) -> httpx.Response:
            client.cookies.clear()
            await real.lever(claims=claims)
            left = await client.get("/login/oidc", params={"next": next_path})
            assert left.status_code == 303, left.text
            return await client.get(await real.visit(left.headers["location"]))

        with capture_logs() as said:
            entered = await enter(**JANE)
        assert entered.status_code == 200 and 'content="0;url=/devices"' in entered.text
        cookies = entered.headers.get_list("set-cookie")
        session = next(cookie for cookie in cookies if cookie.startswith("fieldgate_session="))
        assert all(part in session for part in ("HttpOnly", "SameSite=strict", "Max-Age=7200", "Path=/;"))
        assert "jane@acme.example · admin" in (await client.get("/access")).text
        (event,) = [one for one in said if one["event"] == "http.logged_in"]
        told = {name: event[name] for name in ("by", "name", "role", "customer", "subject")}
        assert told == {
            "by": "oidc",
            "name": "jane@acme.example",
            "role": Role.ADMIN,
            "customer": None,
            "subject": "1",
        }
        # bound: a customer's person sees that customer alone
        john = {"email": "john@acme.example", "email_verified": True, "groups": ["everybody"]}
        await enter(**john, company="ACME-01")
        assert "john@acme.example · viewer · acme" in (await client.get("/")).text
        assert (await client.get("/access")).status_code == 403
        for claims, why in (
            (john, "names no customer"),
            ({**john, "company": "GLOBEX"}, "names no customer"),
            ({**john, "groups": ["others"], "company": "ACME-01"}, "has no role here"),
            ({"groups": ["everybody"], "company": "ACME-01"}, "does not say `email`"),
            ({**john, "email_verified": False, "company": "ACME-01"}, "address is verified"),
        ):
            refused = await enter(**claims)
            assert (refused.status_code, why in shown(refused)) == (403, True), shown(refused)
            assert "fieldgate_session" not in client.cookies
    assert await sessions(world) == [
        ("jane@acme.example", "admin", None),
        ("john@acme.example", "viewer", "acme"),
    ]
    rows = await world.rows("select extract(epoch from expires_at - now()) as left from dashboard_session")
    assert all(7100 < row["left"] <= 7200 for row in rows)


async def test_what_the_id_token_leaves_out_is_asked_for_and_new_keys_are_fetched(
    world: World, real: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "NEW_KEYS_SECONDS", 0.0)
    async with visitor(world, IdentityCalls(), oidc(real.issuer)) as client:

        async def enter() -> int:
            left = await client.get("/login/oidc")
            return (await client.get(await real.visit(left.headers["location"]))).status_code

        await real.lever(claims=JANE, in_id_token=False)
        assert await enter() == 200
        await real.lever(rotate_key=True)
        assert await enter() == 200
        # and out again, here and there
        await client.get("/")
        csrf = (await client.get("/access")).text.partition('name="csrf" value="')[2].partition('"')[0]
        out = await client.post("/logout", data={"csrf": csrf})
        assert out.status_code == 200 and f'href="{real.issuer}/logout/?client_id=gateway-people' in out.text
        assert (await client.get("/access")).status_code == 303
    assert await sessions(world) == []  # the second entry ended that of the first


async def test_a_provider_that_is_away_says_so_and_a_link_still_logs_in(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "AWAY_SECONDS", 0.0)
    gone = OAuthServer(tmp_path)
    async with visitor(world, IdentityCalls(), oidc(gone.issuer)) as client:
        with capture_logs() as said:
            for _ in range(2):
                away = await client.get("/login/oidc?next=/devices")
                assert (away.status_code, "127.0.0.1, where people log in, does not answer" in away.text) == (
                    503,
                    True,
                )
                assert 'href="/login/oidc?next=%2Fdevices"' in away.text and 'name="token"' in away.text
        assert [one["event"] for one in said].count("identity.provider_awaited") == 1
        secret = await access.create_login(world.database, name="local", role=Role.ADMIN)
        assert (await client.post("/login", data={"link": secret})).status_code == 303
        assert (await client.get("/access")).status_code == 200
        async with gone:
            with capture_logs() as said:
                assert (await client.get("/login/oidc")).status_code == 303
            assert "identity.provider_returned" in [one["event"] for one in said]


# By one that lies

KEY = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})


@dataclass
class Forger:
    """A provider whose answers are made to order. `forge` changes the claims, `sign` makes the token of them."""

    forge: Callable[[dict[str, Any]], Any] = lambda claims: None
    sign: Callable[[Forger, dict[str, Any]], str] = lambda self, claims: self.signed(claims)
    document_changes: Mapping[str, object] = field(default_factory=dict)
    userinfo: Mapping[str, object] = field(default_factory=dict)
    key: RSAKey = field(default_factory=lambda: KEY)
    nonce: str = ""
    redeemed: list[tuple[Credential, str, str]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def signed(self, claims: dict[str, Any], **header: str) -> str:
        return jws.serialize_compact(
            {"alg": "RS256", "kid": "one", **header}, json.dumps(claims), self.key, algorithms=["RS256"]
        )

    async def document(
        self, url: str, *, reach: Reach, timeout_seconds: float, access_token: str | None = None
    ) -> Mapping[str, object]:
        self.asked.append(url)
        if url.endswith("/keys"):
            return {"keys": [self.key.as_dict(private=False)]}
        if url.endswith("/me"):
            return self.userinfo
        return {
            "issuer": ISSUER,
            "authorization_endpoint": f"{ISSUER}/authorize",
            "token_endpoint": f"{ISSUER}/token",
            "jwks_uri": f"{ISSUER}/keys",
            "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
            **self.document_changes,
        }

    async def redeem(
        self, credential: Credential, *, code: str, verifier: str, redirect_uri: str, timeout_seconds: float
    ) -> Mapping[str, object]:
        self.redeemed.append((credential, code, verifier))
        if code != "good":
            raise AuthRefused("invalid_grant", final=True)
        now = int(datetime.now(UTC).timestamp())
        claims = {
            "iss": ISSUER,
            "aud": PEOPLE["client_id"],
            "sub": "jane-1",
            "exp": now + 300,
            "iat": now,
            "nonce": self.nonce,
            **JANE,
        }
        self.forge(claims)
        return {"id_token": self.sign(self, claims), "access_token": "at", "token_type": "Bearer"}


async def leave(client: httpx.AsyncClient, forger: Forger) -> str:
    """Begins a login; the state of it."""
    left = await client.get("/login/oidc?next=/devices")
    assert left.status_code == 303, left.text
    asked = {name: values[0] for name, values in parse_qs(urlsplit(left.headers["location"]).query).items()}
    assert asked["redirect_uri"] == CALLBACK and asked["code_challenge_method"] == "S256"
    forger.nonce = asked["nonce"]
    return asked["state"]


async def come_back(client: httpx.AsyncClient, state: str, **query: str) -> httpx.Response:
    return await client.get(f"{CALLBACK}?{urlencode({'state': state, 'code': 'good', **query})}")


def unsigned(_: Forger, claims: dict[str, Any]) -> str:
    parts = (json.dumps(part).encode() for part in ({"alg": "none", "kid": "one"}, claims))
    return ".".join([*(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts), ""])


def by_public_key(forger: Forger, claims: dict[str, Any]) -> str:
    """HS256 under what everybody may read: the public key."""
    parts = (json.dumps(part).encode() for part in ({"alg": "HS256", "kid": "one"}, claims))
    said = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
    mark = hmac.new(forger.key.as_pem(private=False), said.encode(), hashlib.sha256).digest()
    return f"{said}.{base64.urlsafe_b64encode(mark).rstrip(b'=').decode()}"


def by_another_key(forger: Forger, claims: dict[str, Any]) -> str:
    return replace(forger, key=RSAKey.generate_key(2048, {"kid": "one"})).signed(claims)


def tampered(forger: Forger, claims: dict[str, Any]) -> str:
    head, _, tail = forger.signed(claims).split(".")
    body = base64.urlsafe_b64encode(json.dumps({**claims, "sub": "root"}).encode()).rstrip(b"=").decode()
    return f"{head}.{body}.{tail}"


def changed(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda claims: claims.update(values)


def without(name: str) -> Callable[[dict[str, Any]], None]:
    def forge(claims: dict[str, Any]) -> None:
        del claims[name]

    return forge


def ago(seconds: float) -> int:
    return int((datetime.now(UTC) - timedelta(seconds=seconds)).timestamp())


LIES_OF_ANY_TOKEN: Mapping[str, tuple[Forger, str]] = {
    "another issuer": (Forger(changed(iss="http://127.0.0.1:9/realm2")), "not_trusted"),
    "no issuer": (Forger(without("iss")), "not_trusted"),
    "expired": (Forger(lambda claims: claims.update(exp=ago(61))), "expired"),
    "no end": (Forger(without("exp")), "not_trusted"),
    "of the future": (Forger(lambda claims: claims.update(iat=ago(-120))), "not_trusted"),
    "alg none": (Forger(sign=unsigned), "not_trusted"),
    "HS256 by the public key": (Forger(sign=by_public_key), "not_trusted"),
    "another key of the same name": (Forger(sign=by_another_key), "not_trusted"),
    "a key that nobody knows": (
        Forger(sign=lambda self, claims: self.signed(claims, kid="two")),
        "unknown_key",
    ),
    "changed after it was signed": (Forger(sign=tampered), "not_trusted"),
}
LIES: Mapping[str, tuple[Forger, str]] = {
    **LIES_OF_ANY_TOKEN,
    "another nonce": (Forger(changed(nonce="n" * 43)), "wrong_nonce"),
    "no nonce": (Forger(without("nonce")), "wrong_nonce"),
    "a nonce that is no text": (Forger(changed(nonce=["x"])), "wrong_nonce"),
    "a nonce that cannot be encoded": (Forger(changed(nonce="\ud800")), "wrong_nonce"),
    "another audience": (Forger(changed(aud="another")), "not_trusted"),
    "no audience": (Forger(without("aud")), "not_trusted"),
    "several audiences, and nobody who asked": (
        Forger(changed(aud=[PEOPLE["client_id"], "another"])),
        "not_trusted",
    ),
    "another who asked": (Forger(changed(azp="another")), "not_trusted"),
    "no subject": (Forger(without("sub")), "not_trusted"),
    "an end that is no number": (Forger(changed(exp="tomorrow")), "not_trusted"),
    "not yet good": (Forger(lambda claims: claims.update(nbf=ago(-120))), "not_trusted"),
    "no token at all": (Forger(sign=lambda *_: "x"), "not_trusted"),
    "an address that is not verified": (Forger(changed(email_verified=False)), "email_not_verified"),
    "an address of which nobody says so": (Forger(without("email_verified")), "email_not_verified"),
    "userinfo of somebody else": (
        Forger(
            without("groups"),
            document_changes={"userinfo_endpoint": f"{ISSUER}/me"},
            userinfo={"sub": "jane-2", "groups": ["fieldgate-admins"]},
        ),
        "another_person",
    ),
    "no group": (Forger(changed(groups=["nobody"])), "no_role"),
    "a name that cannot be shown": (Forger(changed(email="a\u202eb@c")), "no_name"),
}


async def test_a_lie_logs_nobody_in(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.http.entrance.MAX_FAILURES", 1_000)  # or the 21st would have to wait
    wrong, switch = {}, Switch()
    async with served(world, logins=switch) as client:
        for lie, (forger, reason) in LIES.items():
            switch.now = logins(world, forger, oidc())
            state = await leave(client, forger)
            with capture_logs() as said:
                refused = await come_back(client, state)
            reasons = [one["reason"] for one in said if one["event"] == "http.login_refused"]
            if (refused.status_code, reasons) != (403, [reason]) or "fieldgate_session" in client.cookies:
                wrong[lie] = (refused.status_code, reasons)
    assert not wrong
    assert await sessions(world) == []


async def test_clocks_that_differ_a_little_are_no_reason(world: World) -> None:
    switch = Switch()
    async with served(world, logins=switch) as client:
        for seconds in (-50, 50):
            forger = Forger(lambda claims, by=seconds: claims.update(iat=ago(by), exp=ago(by) + 1))
            switch.now = logins(world, forger, oidc())
            client.cookies.clear()
            assert (await come_back(client, await leave(client, forger))).status_code == 200
    assert len(await sessions(world)) == 2


async def test_a_login_is_finished_once_and_by_the_browser_that_began_it(world: World) -> None:
    forger = Forger()
    async with visitor(world, forger, oidc()) as client, visitor(world, forger, oidc()) as other:
        state = await leave(client, forger)
        kept = client.cookies["fieldgate_oidc"]
        verifier_is_kept = base64.urlsafe_b64decode(kept)
        assert state.encode() not in verifier_is_kept  # sealed: whoever reads the cookie learns nothing
        # another browser: neither without the cookie nor with that of a login of its own
        assert (await come_back(other, state)).status_code == 403
        await other.get("/login/oidc")
        assert (await come_back(other, state)).status_code == 403
        assert (await come_back(client, "", code="good")).status_code == 403
        assert not forger.redeemed
        client.cookies.set("fieldgate_oidc", kept, domain="gateway.test", path="/login/oidc")
        assert (await come_back(client, state)).status_code == 200
        assert "fieldgate_oidc" not in client.cookies
        client.cookies.set("fieldgate_oidc", kept, domain="gateway.test", path="/login/oidc")
        with capture_logs() as said:
            assert (await come_back(client, state)).status_code == 403
        assert [one["reason"] for one in said if one["event"] == "http.login_refused"] == ["replayed"]
    assert len(await sessions(world)) == 1


async def test_over_https_a_login_that_a_host_beside_this_one_planted_is_not_finished(world: World) -> None:
    """Whoever may set cookies for the common domain would log people in as itself, and read what they do."""
    forger, https = Forger(), URL.replace("http:", "https:")
    made = logins(world, forger, oidc())
    async with (
        served(world, logins=made, url=https) as attacker,
        served(world, logins=made, url=https) as client,
    ):
        left = await attacker.get("/login/oidc")
        cookie = left.headers["set-cookie"]
        assert cookie.startswith("__Host-fieldgate_oidc=")
        assert all(part in cookie for part in ("; Path=/;", "HttpOnly", "SameSite=lax", "; Secure"))
        asked = parse_qs(urlsplit(left.headers["location"]).query)
        forger.nonce, state = asked["nonce"][0], asked["state"][0]
        kept = attacker.cookies["__Host-fieldgate_oidc"]
        client.cookies.set("fieldgate_oidc", kept, domain="gateway.test", path="/")
        callback = f"/login/oidc/callback?state={state}&code=good"
        assert (await client.get(callback)).status_code == 403 and not forger.redeemed
        entered = await attacker.get(callback)
        assert entered.status_code == 200 and "__Host-fieldgate_oidc" not in attacker.cookies
        assert entered.headers["set-cookie"].startswith("__Host-fieldgate_session=")
    assert len(await sessions(world)) == 1


@pytest.mark.parametrize("name", [None, "one"])
async def test_a_new_key_under_an_old_name_or_none_is_fetched_when_it_is_met(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    """A provider with one key need not name it."""
    monkeypatch.setattr(provider, "NEW_KEYS_SECONDS", 0.0)
    named: dict[str, Any] = {} if name is None else {"kid": name}

    def sign(self: Forger, claims: dict[str, Any]) -> str:
        return jws.serialize_compact(
            {"alg": "RS256", **named}, json.dumps(claims), self.key, algorithms=["RS256"]
        )

    forger = Forger(sign=sign, key=RSAKey.generate_key(2048, named))
    async with visitor(world, forger, oidc()) as client:
        assert (await come_back(client, await leave(client, forger))).status_code == 200
        forger.key = RSAKey.generate_key(2048, named)
        assert (await come_back(client, await leave(client, forger))).status_code == 200
        forger.sign = by_another_key
        assert (await come_back(client, await leave(client, forger))).status_code == 403
    assert len(forger.asked) == 1 + 3


async def test_a_login_that_another_tab_comes_back_from_ends_none_that_was_begun_since(world: World) -> None:
    forger = Forger()
    async with visitor(world, forger, oidc()) as client:
        first = await leave(client, forger)
        second = await leave(client, forger)
        refused = await come_back(client, first)
        assert refused.status_code == 403 and "begin again" in shown(refused)
        assert (await come_back(client, second)).status_code == 200
    assert len(await sessions(world)) == 1


async def test_a_picture_of_another_site_blocks_nobodys_address(world: World) -> None:
    forger = Forger()
    async with visitor(world, forger, oidc()) as client:
        for kind in ("image", "iframe", "empty"):
            for _ in range(MAX_FAILURES):
                asked = await client.get(f"{CALLBACK}?state=x", headers={"sec-fetch-dest": kind})
                assert asked.status_code == 403 and "set-cookie" not in asked.headers
        state = await leave(client, forger)
        entered = await client.get(
            f"{CALLBACK}?state={state}&code=good", headers={"sec-fetch-dest": "document"}
        )
        assert entered.status_code == 200


async def test_whom_a_first_message_registered_is_a_customer_as_the_listed_ones_are(
    database: Database,
) -> None:
    chosen = rig_settings(telemetry=TelemetrySettings(auto_register_customers=True))
    world, forger = World(database, settings=chosen), Forger(changed(company="initech"))
    async with visitor(world, forger, oidc(customer_claim="company")) as client:
        assert (await come_back(client, await leave(client, forger))).status_code == 200
    assert await sessions(world) == [("jane@acme.example", "admin", "initech")]
    async with visitor(world, Forger(), oidc()) as client:
        secret = await access.create_login(database, name="local", role=Role.ADMIN)
        await client.post("/login", data={"link": secret})
        csrf = (await client.get("/access")).text.partition('name="csrf" value="')[2].partition('"')[0]
        token = {"csrf": csrf, "name": "t", "role": "viewer", "life": "90", "customer": "initech"}
        made = await client.post("/access", data=token)
        assert made.status_code == 200, shown(made)


async def test_an_old_login_is_void(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    forger = Forger()
    async with visitor(world, forger, oidc()) as client:
        monkeypatch.setattr("gateway.identity.logins.LOGIN_SECONDS", 0.0)
        assert (await come_back(client, await leave(client, forger))).status_code == 403
    assert not forger.redeemed


async def test_an_answer_of_another_provider_is_not_redeemed(world: World) -> None:
    names_itself, switch = {"authorization_response_iss_parameter_supported": True}, Switch()
    async with served(world, logins=switch) as client:
        for changes, query, good in (
            ({}, {"iss": "https://attacker.example"}, False),
            ({}, {"iss": ISSUER}, True),
            (names_itself, {}, False),
            (names_itself, {"iss": ISSUER}, True),
        ):
            forger = Forger(document_changes=changes)
            switch.now = logins(world, forger, oidc())
            answer = await come_back(client, await leave(client, forger), **query)
            assert (answer.status_code, bool(forger.redeemed)) == ((200, True) if good else (403, False))


async def test_a_document_that_cannot_be_right_leads_nowhere(world: World) -> None:
    switch = Switch()
    async with served(world, logins=switch) as client:
        for changes in (
            {"issuer": "http://127.0.0.1:9/other"},
            {"token_endpoint": "http://elsewhere.example/token"},
            {"authorization_endpoint": "javascript:alert(1)"},
            {"jwks_uri": None},
        ):
            switch.now = logins(world, Forger(document_changes=changes), oidc())
            answer = await client.get("/login/oidc")
            assert (answer.status_code, "location" in answer.headers) == (503, False)
            assert "one-time link logs you in" in shown(answer)


async def test_no_login_leads_to_another_site(world: World) -> None:
    forger = Forger()
    async with visitor(world, forger, oidc()) as client:
        for wanted in (
            "https://attacker.example",
            "//attacker.example",
            "/\\attacker.example",
            "javascript:alert(1)",
            "/\n/attacker.example",
            "/x" * 900,
        ):
            left = await client.get("/login/oidc", params={"next": wanted})
            asked = parse_qs(urlsplit(left.headers["location"]).query)
            forger.nonce = asked["nonce"][0]
            entered = await come_back(client, asked["state"][0])
            assert entered.status_code == 200 and 'content="0;url=/"' in entered.text


async def test_refusals_count_against_the_address_and_what_was_declined_is_said(world: World) -> None:
    forger = Forger()
    async with visitor(world, forger, oidc()) as client:
        state = await leave(client, forger)
        declined = await client.get(f"{CALLBACK}?state={state}&error=access_denied&error_description=%3Cb%3E")
        assert declined.status_code == 403 and "was not completed" in shown(declined)
        assert "<b>" not in declined.text
        for _ in range(MAX_FAILURES - 1):
            assert (await come_back(client, "guess")).status_code == 403
        assert (await come_back(client, "guess")).status_code == 429
        assert not forger.redeemed


async def test_who_only_begins_writes_nothing_and_many_cause_one_request(world: World) -> None:
    forger = Forger()
    async with visitor(world, forger, oidc()) as client:
        for _ in range(20):
            await leave(client, forger)
    assert forger.asked == [f"{ISSUER}/.well-known/openid-configuration"]
    assert await world.rows("select 1 from finished_login union all select 1 from dashboard_session") == []


async def test_endpoints_at_other_hosts_are_as_trusted_as_the_provider(world: World) -> None:
    """The operator named the issuer; whatever else it names obeys the rules of egress."""
    elsewhere = {"token_endpoint": "https://10.1.2.3/token", "jwks_uri": "https://keys.example/keys"}
    forger = Forger(document_changes=elsewhere)
    async with visitor(world, forger, oidc()) as client:
        await come_back(client, await leave(client, forger))
    ((credential, _, _),) = forger.redeemed
    assert not credential.reach.covers("10.1.2.3") and not credential.reach.covers("169.254.169.254")
    assert credential.reach.covers("8.8.8.8")
    forger = Forger()
    async with visitor(world, forger, oidc()) as client:
        await come_back(client, await leave(client, forger))
    assert forger.redeemed[0][0].reach.everywhere


async def test_a_provider_that_goes_away_in_between_is_no_refusal(world: World) -> None:
    class Leaving(Forger):
        async def redeem(self, *_: Any, **__: Any) -> Any:
            raise Unavailable("no answer")

    forger = Leaving()
    async with visitor(world, forger, oidc()) as client:
        away = await come_back(client, await leave(client, forger))
        assert away.status_code == 503 and "does not answer" in shown(away)


async def test_without_a_provider_there_is_no_way_to_one(world: World) -> None:
    async with served(world) as client:
        assert (await client.get("/login/oidc")).status_code == 404
        assert (await client.get("/login/oidc/callback?state=x&code=y")).status_code == 404
        assert "/login/oidc" not in (await client.get("/login")).text
