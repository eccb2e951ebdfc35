"""What an authorization server's answer means: by `error` and status, in every dialect; and no transient
fault is ever taken for a refusal.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import ssl
from collections import Counter
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import httpx
import orjson
import pytest

from connectors.kit.http import HttpClient
from connectors.kit.oauth import OAuthExchange, authorization_url
from gateway.model.credential import Credential, TokenGrant
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    ConnectorError,
    OutcomeUnknown,
    PermissionDenied,
    RateLimited,
    Unavailable,
)
from gateway.store.access import new_secret

VALUES = {
    "token_url": "https://id.example.com/oauth/token",
    "client_id": "gate way",
    "client_secret": "canary:+/=",
    "scope": "read write",
}
Reply = httpx.Response | Exception
GRANT = {
    "access_token": "at-1",
    "refresh_token": "rt-1",
    "expires_in": 3600,
    "token_type": "Bearer",
    "scope": "read",
}


def credential(**changes: str) -> Credential:
    return Credential(generation=1, type="oauth2_authorization_code", values={**VALUES, **changes})


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> list[httpx.Request]:
    """No socket: `replies` answer, requests are kept."""
    requests: list[httpx.Request] = []

    async def handle(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        requests.append(request)
        trace = request.extensions.get("trace")
        reply = REPLY[0]()
        if isinstance(reply, httpx.ConnectError):
            raise reply
        await trace("http11.send_request_headers.started", {})
        if isinstance(reply, Exception):
            raise reply
        return reply

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle)
    return requests


REPLY: list[Callable[[], Reply]] = [lambda: httpx.Response(500)]


async def refreshed(reply: Callable[[], Reply], token: str | None = "rt-canary") -> TokenGrant:
    REPLY[0] = reply
    return await OAuthExchange().refresh(credential(), token, timeout_seconds=5)


def sent(status: int, content: bytes, headers: dict[str, str]) -> httpx.Response:
    """As it comes off a socket: not read yet."""
    return httpx.Response(status, stream=httpx.ByteStream(content), headers=headers)


def plain(status: int, body: object = None, **headers: str) -> Callable[[], Reply]:
    content = b"" if body is None else json.dumps(body).encode()
    return lambda: sent(
        status,
        content,
        {"content-type": "application/json", "date": "Mon, 02 Nov 2026 10:00:00 GMT", **headers},
    )


def page(status: int, text: str = "<html><body>down</body></html>", **headers: str) -> Callable[[], Reply]:
    return lambda: sent(status, text.encode(), {"content-type": "text/html", **headers})


async def test_a_grant_is_read(network: list[httpx.Request]) -> None:
    grant = await refreshed(plain(200, GRANT))
    assert (grant.access_token, grant.refresh_token, grant.expires_in_seconds, grant.scope) == (
        "at-1",
        "rt-1",
        3600.0,
        "read",
    )
    [request] = network
    assert str(request.url) == VALUES["token_url"]
    assert base64.b64decode(request.headers["authorization"].split()[1]) == b"gate+way:canary%3A%2B%2F%3D"
    assert parse_qs(request.content.decode()) == {
        "grant_type": ["refresh_token"],
        "refresh_token": ["rt-canary"],
    }


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("3600", 3600.0),
        (3599.5, 3599.5),
        (None, None),
        (0, None),
        (-5, None),
        ("soon", None),
        (True, None),
        ("nan", None),
    ],
)
async def test_a_lifetime_in_any_form(
    network: list[httpx.Request], said: object, meant: float | None
) -> None:
    assert (await refreshed(plain(200, {**GRANT, "expires_in": said}))).expires_in_seconds == meant


async def test_a_client_may_authenticate_in_the_body_or_be_public(network: list[httpx.Request]) -> None:
    REPLY[0] = plain(200, GRANT)
    await OAuthExchange().refresh(credential(client_authentication="body"), None, timeout_seconds=5)
    await OAuthExchange().refresh(
        Credential(
            generation=1,
            type="oauth2_authorization_code",
            values={key: value for key, value in VALUES.items() if key != "client_secret"},
        ),
        "rt",
        timeout_seconds=5,
    )
    assert [request.headers.get("authorization") for request in network] == [None, None]
    assert parse_qs(network[0].content.decode()) == {
        "grant_type": ["client_credentials"],
        "scope": ["read write"],
        "client_id": ["gate way"],
        "client_secret": ["canary:+/="],
    }
    assert parse_qs(network[1].content.decode())["client_id"] == ["gate way"]
    with pytest.raises(BadConfiguration, match="client_authentication"):
        await OAuthExchange().refresh(credential(client_authentication="jwt"), None, timeout_seconds=5)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (plain(400, {"error": "invalid_grant"}), AuthRefused),
        (plain(400, {"error": "invalid_grant", "error_description": "the token was revoked"}), AuthRefused),
        (plain(401, {"error": "invalid_grant"}), AuthRefused),
        (plain(200, {"error": "invalid_grant"}), AuthRefused),
        (plain(401, {"error": "invalid_client"}), BadConfiguration),
        (plain(401, None, **{"www-authenticate": 'Bearer error="invalid_client"'}), BadConfiguration),
        (
            plain(
                401,
                None,
                **{"www-authenticate": 'basic realm="x", error="invalid_client", error_description="no"'},
            ),
            BadConfiguration,
        ),
        (plain(401), BadConfiguration),
        (plain(400, {"error": "invalid_client"}), BadConfiguration),
        (plain(400, {"error": "unauthorized_client"}), BadConfiguration),
        (plain(400, {"error": "invalid_scope"}), BadConfiguration),
        (plain(400, {"error": "unsupported_grant_type"}), BadConfiguration),
        (page(404), BadConfiguration),
        (page(308, location="https://new.example.com"), BadConfiguration),
        (page(403), PermissionDenied),
        (plain(400, {"error": "slow_down"}), RateLimited),
        (plain(429, {"error": "invalid_grant"}, **{"retry-after": "7"}), RateLimited),
        (page(503, **{"retry-after": "7"}), RateLimited),
        (page(503), Unavailable),
        (plain(400, {"error": "temporarily_unavailable"}), Unavailable),
        (page(302, location="/maintenance"), Unavailable),
        (plain(500, {"error": "invalid_grant"}), OutcomeUnknown),
        (page(502), OutcomeUnknown),
        (page(200), OutcomeUnknown),
        (page(200, "<title>Log in</title><input type=password>"), OutcomeUnknown),
        (plain(200, {"token_type": "bearer"}), OutcomeUnknown),
        (plain(200, {**GRANT, "access_token": "two\nlines"}), OutcomeUnknown),
        (plain(200, {**GRANT, "token_type": "mac"}), OutcomeUnknown),
        (lambda: httpx.ReadTimeout("slow"), OutcomeUnknown),
        (lambda: httpx.RemoteProtocolError("cut"), OutcomeUnknown),
        (lambda: httpx.ConnectError("[Errno -2] Name or service not known"), Unavailable),
    ],
)
async def test_an_answer_means(
    network: list[httpx.Request], reply: Callable[[], Reply], kind: type[ConnectorError]
) -> None:
    with pytest.raises(ConnectorError) as caught:
        await refreshed(reply)
    assert type(caught.value) is kind
    assert "canary" not in f"{caught.value!r} {caught.value.__cause__!r}"
    if isinstance(caught.value, AuthRefused):
        assert caught.value.final


@pytest.mark.parametrize("error", ["invalid_client", "unauthorized_client"])
async def test_a_refused_client_is_no_customers_fault(network: list[httpx.Request], error: str) -> None:
    with pytest.raises(BadConfiguration) as caught:
        await refreshed(plain(401, {"error": error}))
    assert caught.value.oauth_client


async def test_an_answer_that_echoes_the_request_gives_nothing_away(network: list[httpx.Request]) -> None:
    def echo() -> Reply:
        [*_, request] = network
        said = {"message": request.content.decode() + str(request.headers.raw)}
        return sent(500, orjson.dumps(said), {"content-type": "application/json"})

    with pytest.raises(Unavailable) as caught:
        await refreshed(echo)
    assert "***" in str(caught.value)
    assert "canary" not in str(caught.value)
    assert base64.b64encode(b"gate+way:canary%3A%2B%2F%3D").decode() not in str(caught.value)


TRANSIENT: list[Callable[[], Reply]] = [
    page(500),
    page(502),
    page(503),
    page(504),
    page(200),
    page(200, "maintenance"),
    plain(429, {"error": "slow"}),
    plain(500, {"error": "invalid_grant"}),
    plain(503, {"error": "server_error"}, **{"retry-after": "Mon, 02 Nov 2026 10:00:07 GMT"}),
    lambda: httpx.ConnectError("[Errno -3] Temporary failure in name resolution"),
    lambda: httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate has expired"),
    lambda: httpx.ConnectTimeout("slow"),
    lambda: httpx.ReadTimeout("slow"),
    lambda: httpx.ReadError("reset"),
    lambda: ssl.SSLError("record layer failure"),
]


@pytest.mark.parametrize("faults", [2_000, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_transient_faults_refuse_nobody(network: list[httpx.Request], faults: int) -> None:
    """Half at the token's endpoint, half at the API."""
    draw, seen = random.Random(20261123), Counter[str]()
    exchange = OAuthExchange()
    api = HttpClient("https://api.example.com", headers={}, secrets=[], timeout_seconds=5)
    for number in range(faults):
        REPLY[0] = draw.choice(TRANSIENT)
        try:
            if number % 2:
                await exchange.refresh(credential(), "rt-canary", timeout_seconds=5)
            else:
                await api.call("probe", draw.choice(["GET", "POST"]), "/meters")
        except ConnectorError as error:
            seen[type(error).__name__] += 1
        if number % 100 == 0:
            await asyncio.sleep(0)
    await api.close()
    assert seen.keys() == {"Unavailable", "OutcomeUnknown", "RateLimited"}
    assert seen.total() == faults


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("<html><body><h1>Scheduled maintenance</h1></body></html>", False),
        ("<html><title>502 Bad Gateway</title></html>", False),
        ("<html><title>Blog entries</title><form><input type=text name=q></form></html>", False),
        ('<form action="/sso"><input type="hidden" name="SAMLRequest" value="x"></form>', True),
        ("<form><INPUT name=pw TYPE='password'></form>", True),
        ("<!doctype html><title>Sign in - Example</title>", True),
    ],
)
async def test_a_web_page_in_place_of_data(network: list[httpx.Request], text: str, asks: bool) -> None:
    """One that asks for a login is a doubtful refusal; any other is a fault on the way."""
    REPLY[0] = page(200, text)
    api = HttpClient("https://api.example.com", headers={}, secrets=[], timeout_seconds=5)
    with pytest.raises(ConnectorError) as caught:
        await api.call("probe", "GET", "/meters")
    await api.close()
    if asks:
        assert isinstance(caught.value, AuthRefused)
        assert caught.value.doubtful
        assert not caught.value.final
    else:
        assert type(caught.value) is Unavailable


def test_the_address_that_a_person_is_sent_to() -> None:
    verifier = new_secret()
    url = urlsplit(
        authorization_url(
            {**VALUES, "authorization_url": "https://id.example.com/authorize?tenant=1"},
            redirect_uri="https://gw/oauth/callback",
            state="s1",
            verifier=verifier,
        )
    )
    query = parse_qs(url.query)
    assert query["tenant"] == ["1"]
    assert query["code_challenge_method"] == ["S256"]
    assert query["scope"] == ["read write"]
    assert len(verifier) >= 43
    assert verifier not in url.query
    assert "canary" not in url.query


def test_the_challenge_is_that_of_the_specification() -> None:
    """RFC 7636, appendix B."""
    url = authorization_url(
        {**VALUES, "authorization_url": "https://id.example.com/a"},
        redirect_uri="https://gw",
        state="s",
        verifier="dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
    )
    assert parse_qs(urlsplit(url).query)["code_challenge"] == ["E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"]


@pytest.mark.parametrize(
    "url", ["http://id.example.com/token", "https://user:pw@id.example.com/token", "ftp://x", ""]
)
async def test_secrets_go_to_safe_addresses_only(url: str) -> None:
    with pytest.raises(BadConfiguration, match="token_url"):
        await OAuthExchange().refresh(credential(token_url=url), None, timeout_seconds=5)


def test_nothing_of_a_credential_or_a_grant_is_in_its_repr() -> None:
    grant = TokenGrant(access_token="canary", refresh_token="canary")
    assert "canary" not in repr([credential(), grant])
