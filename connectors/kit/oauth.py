"""OAuth 2.0 on the wire: client credentials, authorization code with PKCE, refresh, revocation. Decides by
`error` and status, never by a description.

It must not know leases or storing: the engine brings those.
Source: RFC 6749 (4.1, 4.4, 5.1, 5.2, 6), RFC 7636 (PKCE), RFC 7009 (revocation), RFC 6750 (WWW-Authenticate).
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import ssl
from collections.abc import Callable, Mapping
from urllib.parse import quote, quote_plus, urlencode, urlsplit

from connectors.kit.answer import Answer
from connectors.kit.classify import DEFAULT_RETRY_AFTER_SECONDS
from connectors.kit.credentials import RULES
from connectors.kit.http import HttpClient
from connectors.kit.tls import shared_context
from gateway.model.connector import Observer, unobserved
from gateway.model.credential import Credential, TokenGrant
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    ConnectorError,
    OutcomeUnknown,
    RateLimited,
    Unavailable,
)

_MAX_BODY_BYTES = 1 << 20
_TOKEN = re.compile(r"[\x21-\x7e]+")
_ERROR = re.compile(r"""\berror\s*=\s*["']?([a-z_]{1,60})""")
_CLIENT_REFUSED = ("invalid_client", "unauthorized_client")
_TRANSIENT = ("temporarily_unavailable", "server_error")
_DEFINITE = range(300, 600)


def authorization_url(credential: Mapping[str, str], *, redirect_uri: str, state: str, verifier: str) -> str:
    """Where a person is sent to allow the gateway in. `credential` has `authorization_url`, `client_id` and,
    where wanted, `scope`. Raises BadConfiguration.
    """
    address = _address(credential, "authorization_url")
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "response_type": "code",
        "client_id": _required(credential, "client_id"),
        "redirect_uri": redirect_uri,
        "state": state,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    if scope := _given(credential, "scope"):
        query["scope"] = scope
    return f"{address}{'&' if urlsplit(address).query else '?'}{urlencode(query, quote_via=quote)}"


class OAuthExchange:
    """The requests to authorization servers. A TokenExchange; opens nothing between requests.

    A credential's values: `token_url`, `client_id`, `client_secret` (none: a public client), `scope`,
    `revocation_url`, and `client_authentication`: `basic` (the default) or `body`.
    """

    def __init__(self, *, observe: Observer = unobserved) -> None:
        self._observe = observe

    async def refresh(
        self, credential: Credential, refresh_token: str | None, *, timeout_seconds: float
    ) -> TokenGrant:
        """One request: by the refresh token, or by the client's own credential. Raises
        as TokenExchange says.
        """
        scope = _given(credential.values, "scope")
        if refresh_token is None:
            form = {"grant_type": "client_credentials"} | ({"scope": scope} if scope else {})
        else:
            form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        return await self._grant(credential, form, timeout_seconds)

    async def redeem(
        self, credential: Credential, *, code: str, verifier: str, redirect_uri: str, timeout_seconds: float
    ) -> TokenGrant:
        """The tokens for an authorization code, once. AuthRefused(final=True): the code is used, old or not
        for us.
        """
        return await self._grant(credential, _code_form(code, verifier, redirect_uri), timeout_seconds)

    async def redeem_identity(
        self,
        credential: Credential,
        *,
        code: str,
        verifier: str,
        redirect_uri: str,
        timeout_seconds: float,
        tls: ssl.SSLContext,
    ) -> Mapping[str, object]:
        """As `redeem`, the whole answer: where a person was asked who they are, it holds an ID token."""
        form = _code_form(code, verifier, redirect_uri)
        answer = await self._post(credential, "token_url", form, timeout_seconds, tls=tls)
        if not isinstance(answer.json, dict):
            raise OutcomeUnknown(
                "the identity provider's answer holds no token", request_id=answer.request_id
            )
        return answer.json

    async def revoke(self, credential: Credential, token: str, *, timeout_seconds: float) -> None:
        """The token is good no more, also when it was not before. Nothing happens where the server has no
        `revocation_url`.
        """
        if "revocation_url" in credential.values:
            await self._post(credential, "revocation_url", {"token": token}, timeout_seconds)

    async def _grant(
        self, credential: Credential, form: Mapping[str, str], timeout_seconds: float
    ) -> TokenGrant:
        answer = await self._post(credential, "token_url", form, timeout_seconds)
        grant = to_grant(answer.json)
        if grant is None:
            raise OutcomeUnknown(
                "the authorization server's answer holds no token", request_id=answer.request_id
            )
        return grant

    async def _post(
        self,
        credential: Credential,
        endpoint: str,
        form: Mapping[str, str],
        timeout_seconds: float,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> Answer:
        values = credential.values
        url = urlsplit(_address(values, endpoint))
        authentication, in_body = _authentication(values)
        http = HttpClient(
            f"{url.scheme}://{url.netloc}",
            headers=authentication,
            secrets=_hidden(values, form, authentication),
            timeout_seconds=max(timeout_seconds, 0.001),
            observe=self._observe,
            max_body_bytes=_MAX_BODY_BYTES,
            tls=tls or shared_context(),
            reach=credential.reach,
        )
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        # what came from elsewhere, such as a code, may hold what is no text: the server refuses it then
        body = urlencode({**form, **in_body}, errors="replace").encode()
        try:
            answer = await http.call(
                "token",
                "POST",
                path,
                content=body,
                headers={"content-type": "application/x-www-form-urlencoded"},
                accept_statuses=_DEFINITE,
            )
            for secret in _tokens_of(answer.json):
                http.conceal(secret)
            if error := refusal(http, answer, url.path):
                raise error
        except AuthRefused as error:
            if error.final:
                raise
            raise OutcomeUnknown(
                f"the authorization server gave no answer that can be read: {error}",
                request_id=error.request_id,
            ) from error
        finally:
            await http.close()
        return answer


def _code_form(code: str, verifier: str, redirect_uri: str) -> dict[str, str]:
    return {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "code_verifier": verifier,
    }


def to_grant(document: object) -> TokenGrant | None:
    """The grant in a body; None where there is none that can be sent in a header."""
    if not isinstance(document, dict):
        return None
    access, refresh = document.get("access_token"), document.get("refresh_token")
    if (
        not isinstance(access, str)
        or not _TOKEN.fullmatch(access)
        or str(document.get("token_type", "bearer")).lower() != "bearer"
    ):
        return None
    scope = document.get("scope")
    return TokenGrant(
        access_token=access,
        refresh_token=refresh if isinstance(refresh, str) and refresh else None,
        expires_in_seconds=_seconds(document.get("expires_in")),
        scope=scope if isinstance(scope, str) else None,
        refresh_expires_in_seconds=_seconds(
            document.get("refresh_expires_in", document.get("refresh_token_expires_in"))
        ),
    )


def _tokens_of(document: object) -> list[str]:
    """What an answer holds that no text may show, also where it is no grant."""
    found = (
        (document.get(name) for name in ("access_token", "refresh_token", "id_token"))
        if isinstance(document, dict)
        else ()
    )
    return [token for token in found if isinstance(token, str)]


def refusal(http: HttpClient, answer: Answer, path: str) -> ConnectorError | None:
    """What an answer that grants nothing means; None for one that may grant. A 5xx is transient whatever its
    body says.
    """
    call, error = f"POST {path}", _error_of(answer, http.clean)
    if answer.status >= 500 or answer.status in (408, 425, 429):
        return http.error(answer, call, idempotent=False)
    if answer.status < 300 and error is None:
        return None
    text, request_id = (
        f"the authorization server answered {answer.status} {error or 'without an error code'}",
        answer.request_id,
    )
    match error:
        case "invalid_grant":
            return AuthRefused(
                f"{text}: what it had granted is revoked, used up or expired",
                final=True,
                request_id=request_id,
            )
        case str() if error in _CLIENT_REFUSED:
            return BadConfiguration(
                f"{text}: check the OAuth client's id and secret", oauth_client=True, request_id=request_id
            )
        case str() if error in _TRANSIENT:
            return Unavailable(text, request_id=request_id)
        case "slow_down":
            return RateLimited(text, retry_after=DEFAULT_RETRY_AFTER_SECONDS, request_id=request_id)
        case str():
            return BadConfiguration(f"{text}: {http.text_of(answer)}", request_id=request_id)
        case None if answer.status == 401:
            return BadConfiguration(
                f"{text}: check the OAuth client's id and secret", oauth_client=True, request_id=request_id
            )
        case None if answer.status in (302, 303, 307):
            return Unavailable(
                f"{text}, and sends us elsewhere: if it goes on, check token_url", request_id=request_id
            )
        case None if answer.status in (301, 308):
            return BadConfiguration(
                f"{text}, and says that it has moved: correct token_url", request_id=request_id
            )
        case _:
            return http.error(answer, call, idempotent=False)


def _error_of(answer: Answer, clean: Callable[[str], str]) -> str | None:
    """The `error` of the body, or of WWW-Authenticate under whatever scheme, without what a server echoes."""
    if isinstance(answer.json, dict) and isinstance(error := answer.json.get("error"), str) and error:
        return clean(error)[:60]
    found = _ERROR.search(answer.headers.get("www-authenticate", ""))
    return clean(found[1])[:60] if found else None


def _authentication(values: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Headers, and what goes into the body. Both parts of Basic are form-encoded first. Source: RFC 6749,
    2.3.1.
    """
    client_id, secret = _required(values, "client_id"), _given(values, "client_secret")
    if secret is None:
        return {}, {"client_id": client_id}
    match values.get("client_authentication", "basic"):
        case "basic":
            pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
            return {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}, {}
        case "body":
            return {}, {"client_id": client_id, "client_secret": secret}
        case _:
            raise BadConfiguration("credentials.client_authentication is `basic` or `body`")


def _hidden(
    values: Mapping[str, str], form: Mapping[str, str], authentication: Mapping[str, str]
) -> list[str]:
    """Whatever a server could echo, also form-encoded."""
    secret = [
        values.get("client_secret", ""),
        *(form.get(name, "") for name in ("refresh_token", "code", "code_verifier", "token")),
    ]
    encoded = [header.partition(" ")[2] for header in authentication.values()]
    return [*secret, *(quote_plus(text, errors="replace") for text in secret), *encoded]


def _address(values: Mapping[str, str], name: str) -> str:
    return _required(values, name)


def _required(values: Mapping[str, str], name: str) -> str:
    value = _given(values, name)
    if not value:
        raise BadConfiguration(f"credentials.{name} is needed for OAuth 2.0")
    return value


def _given(values: Mapping[str, str], name: str) -> str | None:
    """What was given, where it can be sent: what is stored may be older than the rules."""
    value = values.get(name)
    try:
        if value:
            RULES[name](value)
    except ValueError as error:
        raise BadConfiguration(f"credentials.{name}: {error}") from None
    return value


def _seconds(value: object) -> float | None:
    """A positive lifetime, also as text; None where nothing that can be used is said."""
    try:
        seconds = (
            float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
        )
    except (ValueError, OverflowError):
        return None
    return min(seconds, 10.0 * 366 * 86400) if seconds > 0 else None
