"""A login by the identity provider: authorization code with PKCE, state and nonce. It knows no HTTP of ours
and no cookie; what has to outlive the way there and back is sealed into a text that the browser keeps.

So whoever is not logged in writes nothing to the database; that a login is finished once is the store's part
(`finished_login`).
Source: OpenID Connect Core 1.0 (3.1.2, 3.1.3, 5.3); OpenID Connect Back-Channel Logout 1.0; RFC 7636;
RFC 9207; RFC 9700 (4.4, mix-up).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from gateway import clock
from gateway.credentials.vault import Binding, Vault
from gateway.identity.id_token import TokenNeeds, issued_at, name_in, verified, verified_logout
from gateway.identity.ports import IdentityRequests
from gateway.identity.provider import CALL_SECONDS, Metadata, Provider
from gateway.login_settings import OidcSettings
from gateway.model.address import Network
from gateway.model.credential import Credential
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    ConnectorError,
    PermissionDenied,
    SealBroken,
)
from gateway.model.identity import (
    LOGIN_SECONDS,
    IdentityRules,
    LoginDeparture,
    LoginRefused,
    ProvenLogin,
    ProvenLogout,
    ProviderAway,
    principal_of,
)
from gateway.store.access import new_secret

MAX_NEXT_LENGTH = 1_000
_SEAL = Binding(customer="", connection="", field="login", generation=0)


class Logins:
    """Logins by one provider. `customers`: those that there are now."""

    def __init__(
        self,
        settings: OidcSettings,
        calls: IdentityRequests,
        vault: Vault,
        *,
        public_url: str,
        customers: Callable[[], Sequence[str]] = tuple,
        allowed: tuple[Network, ...] = (),
    ) -> None:
        assert settings.issuer is not None
        assert settings.client_id is not None
        self.title = settings.title
        self._settings, self._issuer, self._client_id = settings, settings.issuer, settings.client_id
        self._calls, self._vault, self._customers = calls, vault, customers
        self._public_url = public_url.rstrip("/")
        self._provider = Provider(settings.issuer, calls, allowed=allowed)
        self._rules = rules_of(settings)

    @property
    def host(self) -> str:
        """Of the provider, as people are told."""
        return urlsplit(self._issuer).hostname or ""

    @property
    def redirect_uri(self) -> str:
        """What is registered with the provider."""
        return f"{self._public_url}/login/oidc/callback"

    async def begin(self, next_path: str) -> LoginDeparture:
        """Raises ProviderAway, LoginRefused."""
        metadata = await self._provider.metadata()
        state, nonce, verifier = new_secret(), new_secret(), new_secret()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": self.redirect_uri,
            "scope": " ".join(self._settings.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        kept = {
            "issuer": self._issuer,
            "state": state,
            "nonce": nonce,
            "verifier": verifier,
            "next": next_path if len(next_path) <= MAX_NEXT_LENGTH else "/",
            "until": str(clock.now().timestamp() + LOGIN_SECONDS),
        }
        sealed = base64.urlsafe_b64encode(self._vault.seal(kept, _SEAL)).decode()
        return LoginDeparture(url=_with_query(metadata.authorization_url, query), kept=sealed)

    async def finish(
        self, *, state: str, code: str | None, kept: str, issuer: str | None, error: str | None
    ) -> ProvenLogin:
        """Who came back. `issuer` and `error` as the answer has them. Raises ProviderAway, LoginRefused."""
        begun = self._opened(kept, state)
        metadata = await self._provider.metadata()
        # of another provider than the one that was asked, its answer is worth nothing here (mix-up)
        if issuer != self._issuer if issuer is not None else metadata.names_itself:
            raise LoginRefused(
                "another_issuer", "This answer is of another identity provider: begin again.", detail="iss"
            )
        if code is None:
            raise LoginRefused(
                "declined", "The login was not completed there. You can try again.", detail=_shown(error)
            )
        claims, named = await self._claims(metadata, begun, code)
        return ProvenLogin(
            principal=principal_of(claims, self._rules, issuer=self._issuer, known=self._customers()),
            issuer=self._issuer,
            subject=str(named["sub"]),
            sid=name_in(named, "sid"),
            issued_at=issued_at(named),
            next_path=begun["next"],
            state=state,
            void_at=datetime.fromtimestamp(float(begun["until"]), tz=clock.now().tzinfo),
            lasts=self._settings.session,
        )

    async def prove_logout(self, token: str) -> ProvenLogout:
        """What a logout token of the provider ends. Raises ProviderAway, LoginRefused."""
        metadata = await self._provider.metadata()
        return await self._provider.with_keys(
            metadata, lambda keys: verified_logout(token, keys, self._needs(metadata))
        )

    async def logout_url(self) -> str | None:
        """Where one is logged out at the provider too; None where it offers none, or is away."""
        try:
            url = (await self._provider.metadata()).logout_url
        except (ProviderAway, LoginRefused):
            return None
        back = {
            "client_id": self._client_id,
            "post_logout_redirect_uri": f"{self._public_url}/login",
        }
        return None if url is None else _with_query(url, back)

    def _opened(self, kept: str, state: str) -> dict[str, str]:
        """What this browser keeps of the login that it began."""
        try:
            begun = self._vault.open(base64.b64decode(kept, altchars=b"-_", validate=True), _SEAL)
        except (SealBroken, binascii.Error, ValueError):
            begun = {}
        if (
            not state
            or not hmac.compare_digest(
                begun.get("state", "").encode(), state.encode("utf-8", "surrogatepass")
            )
            or begun["issuer"] != self._issuer
            or clock.now().timestamp() >= float(begun["until"])
        ):
            raise LoginRefused(
                "not_begun_here",
                "This login was not begun in this browser, or too long ago: begin again.",
                detail="state",
            )
        return begun

    async def _claims(
        self, metadata: Metadata, begun: Mapping[str, str], code: str
    ) -> tuple[Mapping[str, object], Mapping[str, Any]]:
        """With those of the ID token, which alone says the subject, the provider's session and the time."""
        answer = await self._redeemed(metadata, begun, code)
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise LoginRefused(
                "not_trusted", "The identity provider did not say who logged in.", detail="no id_token"
            )
        claims = await self._provider.with_keys(
            metadata,
            lambda keys: verified(token, keys, self._needs(metadata), nonce=begun["nonce"]),
        )
        access_token = answer.get("access_token")
        if (
            metadata.claims_url is None
            or not isinstance(access_token, str)
            or not self._rules.missing(claims)
        ):
            return claims, claims
        more = await self._more_claims(metadata.claims_url, access_token, str(claims["sub"]))
        return {**more, **claims}, claims

    def _needs(self, metadata: Metadata) -> TokenNeeds:
        return TokenNeeds(
            issuer=self._issuer,
            client_id=self._client_id,
            algorithms=metadata.algorithms,
            now=clock.now(),
            skew=self._settings.clock_skew,
        )

    async def _redeemed(
        self, metadata: Metadata, begun: Mapping[str, str], code: str
    ) -> Mapping[str, object]:
        secret = self._settings.client_secret
        credential = Credential(
            generation=0,
            type="oauth2_authorization_code",
            values={
                "token_url": metadata.token_url,
                "client_id": self._client_id,
                "client_authentication": self._settings.client_authentication,
                **({} if secret is None else {"client_secret": secret.get_secret_value()}),
            },
            reach=self._provider.reach(metadata.token_url),
        )
        try:
            return await self._calls.redeem(
                credential,
                code=code,
                verifier=begun["verifier"],
                redirect_uri=self.redirect_uri,
                timeout_seconds=CALL_SECONDS,
            )
        except AuthRefused as error:
            raise LoginRefused(
                "code_refused",
                "The identity provider did not confirm the login: begin again.",
                detail=str(error),
            ) from error
        except (BadConfiguration, PermissionDenied) as error:
            raise LoginRefused(
                "client_refused",
                "The identity provider does not accept this gateway. Ask whoever runs the gateway.",
                detail=str(error),
            ) from error
        except ConnectorError as error:
            raise ProviderAway(str(error)) from error

    async def _more_claims(self, url: str, access_token: str, subject: str) -> Mapping[str, object]:
        """What the provider says of the person beside the ID token."""
        try:
            found = await self._provider.told(
                lambda: self._calls.document(
                    url,
                    reach=self._provider.reach(url),
                    timeout_seconds=CALL_SECONDS,
                    access_token=access_token,
                )
            )
        except ConnectorError as error:
            raise ProviderAway(str(error)) from error
        if found.get("sub") != subject:
            # Source: OpenID Connect Core 1.0, 5.3.2: else it may be of somebody else
            raise LoginRefused(
                "another_person", "The identity provider's answers are of two people.", detail="userinfo sub"
            )
        return found


def rules_of(settings: OidcSettings) -> IdentityRules:
    """What of the claims counts."""
    return IdentityRules(
        name_claim=settings.name_claim,
        roles_claim=settings.roles_claim,
        roles={role: frozenset(values) for role, values in settings.roles.items()},
        customer_claim=settings.customer_claim,
        customers=settings.customers,
        unbound=frozenset(settings.unbound),
    )


def _with_query(url: str, query: Mapping[str, str]) -> str:
    return f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(query, quote_via=quote)}"


def _shown(error: str | None) -> str:
    """Of a stranger's text what may stand in the log."""
    return "".join(letter for letter in (error or "no code")[:60] if letter.isalnum() or letter in "_-. ")
