"""OAuth 2.0 against an authorization server that we did not write, from a person's consent to the end of the
connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from connectors.kit.authorization import Bearer
from connectors.kit.http import HttpClient
from connectors.kit.oauth import OAuthExchange, authorization_url
from gateway.credentials.tokens import Tokens
from gateway.credentials.vault import Vault
from gateway.model.connector import Auth
from gateway.model.credential import Credential, TokenGrant
from gateway.model.errors import AuthRefused, BadConfiguration, OutcomeUnknown, RateLimited, Unavailable
from gateway.store.access import new_secret
from gateway.store.pool import Database
from tests.fixtures.credential_rig import CONNECTION, CUSTOMER, KEY, SYSTEM, connected
from tests.fixtures.oauth_server import MACHINE, REDIRECT, WEB, OAuthServer

EXCHANGE = OAuthExchange()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[OAuthServer]:
    async with OAuthServer(tmp_path) as started:
        yield started


def credential(
    server: OAuthServer, client: Mapping[str, str], type: Auth = "oauth2_authorization_code"
) -> Credential:
    return Credential(generation=1, type=type, values={**server.endpoints, **client, "scope": "read"})


async def consented(server: OAuthServer, web: Credential, *, verifier: str | None = None) -> TokenGrant:
    mine = new_secret()
    code = await server.code(authorization_url(web.values, redirect_uri=REDIRECT, state="s", verifier=mine))
    return await EXCHANGE.redeem(
        web, code=code, verifier=verifier or mine, redirect_uri=REDIRECT, timeout_seconds=10
    )


@pytest.mark.parametrize("authentication", ["basic", "body"])
async def test_a_client_of_its_own(server: OAuthServer, authentication: str) -> None:
    machine = credential(
        server, {**MACHINE, "client_authentication": authentication}, "oauth2_client_credentials"
    )
    grant = await EXCHANGE.refresh(machine, None, timeout_seconds=10)
    assert grant.expires_in_seconds == 3600
    assert await server.resource(grant.access_token) == 200


async def test_a_persons_consent_is_good_once_and_with_the_verifier_only(server: OAuthServer) -> None:
    web, verifier = credential(server, WEB), new_secret()
    code = await server.code(
        authorization_url(web.values, redirect_uri=REDIRECT, state="s", verifier=verifier)
    )
    with pytest.raises(AuthRefused) as caught:
        await EXCHANGE.redeem(
            web, code=code, verifier=new_secret(), redirect_uri=REDIRECT, timeout_seconds=10
        )
    assert caught.value.final
    grant = await consented(server, web)
    assert await server.resource(grant.access_token) == 200


async def test_a_refresh_token_that_is_used_twice_kills_its_family(server: OAuthServer) -> None:
    """Why there is one exchange per expiry and no more."""
    web = credential(server, WEB)
    first = await consented(server, web)
    second = await EXCHANGE.refresh(web, first.refresh_token, timeout_seconds=10)
    with pytest.raises(AuthRefused):
        await EXCHANGE.refresh(web, first.refresh_token, timeout_seconds=10)
    with pytest.raises(AuthRefused):
        await EXCHANGE.refresh(web, second.refresh_token, timeout_seconds=10)
    assert await server.resource(second.access_token) == 401


async def test_a_revoked_token_is_good_no_more(server: OAuthServer) -> None:
    web = credential(server, WEB)
    grant = await consented(server, web)
    assert grant.refresh_token is not None
    await EXCHANGE.revoke(web, grant.refresh_token, timeout_seconds=10)
    assert await server.resource(grant.access_token) == 401
    with pytest.raises(AuthRefused):
        await EXCHANGE.refresh(web, grant.refresh_token, timeout_seconds=10)


async def test_a_wrong_client_and_a_server_in_trouble_refuse_nobody(server: OAuthServer) -> None:
    web = credential(server, WEB)
    grant = await consented(server, web)
    for client in ({**WEB, "client_secret": "wrong"}, {**WEB, "client_id": "unknown"}):
        with pytest.raises(BadConfiguration) as caught:
            await EXCHANGE.refresh(credential(server, client), grant.refresh_token, timeout_seconds=10)
        assert caught.value.oauth_client
    for lever, kind in (
        ({"fail": 500}, OutcomeUnknown),
        ({"fail": 503}, Unavailable),
        ({"fail": 429}, RateLimited),
        ({"html": True}, OutcomeUnknown),
    ):
        await server.lever(**lever)
        with pytest.raises(kind):
            await EXCHANGE.refresh(web, grant.refresh_token, timeout_seconds=10)
        await server.lever(fail=None, html=False)
    assert (
        await server.resource(
            (await EXCHANGE.refresh(web, grant.refresh_token, timeout_seconds=10)).access_token
        )
        == 200
    )


async def test_a_connection_from_consent_to_revocation(server: OAuthServer, database: Database) -> None:
    """Calls go on over an expiry; a revoked consent is known for good at the first call."""
    web = await connected(database, values=credential(server, WEB).values)
    tokens = Tokens(database, Vault([KEY]), EXCHANGE, owner="one")
    async with database.transaction() as connection:
        await tokens.adopt(
            connection,
            connection_id=CONNECTION,
            customer=CUSTOMER,
            credential=web,
            grant=await consented(server, web),
        )
    http = HttpClient(server.url, headers={}, secrets=[], timeout_seconds=10)
    http.authorize(Bearer(tokens.source(CONNECTION, CUSTOMER, SYSTEM, 1, web), conceal=http.conceal))
    assert (await http.call("probe", "GET", "/api/readings")).json == {"ok": True, "account": "operator"}
    assert await server.token_requests() == 1
    await server.lever(expire_access=True)
    for _ in range(2):
        assert (await http.call("probe", "GET", "/api/readings")).json == {"ok": True, "account": "operator"}
    assert await server.token_requests() == 2
    await server.lever(accepting=False)
    with pytest.raises(AuthRefused) as caught:
        await http.call("probe", "GET", "/api/readings")
    assert not caught.value.final, "the authorization server thinks well of it: a probe decides"
    await server.lever(accepting=True, revoke_all=True)
    with pytest.raises(AuthRefused) as caught:
        await http.call("probe", "GET", "/api/readings")
    assert caught.value.final
    await http.close()
