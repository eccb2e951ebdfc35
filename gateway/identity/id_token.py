"""Whether an ID token is the provider's, for us, of this login and of now; and the same of a logout token.
The only one that knows JOSE, and that by a library.

Source: OpenID Connect Core 1.0 (2, 3.1.3.7); OpenID Connect Back-Channel Logout 1.0 (2.4, 2.6); RFC 8725
(JSON Web Token Best Current Practices).
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from joserfc import jwk, jws, jwt
from joserfc.errors import BadSignatureError, ExpiredTokenError, InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jwt import ClaimsOption, JWTClaimsRegistry, Token

from gateway.model.identity import LoginRefused, ProvenLogout

ASYMMETRIC = frozenset(
    {
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
    }
)  # fmt: skip
"""Signatures that only the provider can make: neither `none` nor HS256, whose key would be one that we know.
"""

MAX_KEYS = 100
_MAX_HEADER_BYTES = 16 << 10  # some providers send their certificate along
_KEY_TYPES = ("RSA", "EC", "OKP")

LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
LOGOUT_LIFE = timedelta(days=1)
"""An older logout token is refused, whatever it says of its end: so long at most its id has to be known."""

_ESSENTIAL: ClaimsOption = {"essential": True}
_LOGOUT_TYPES = frozenset({"logout+jwt", "jwt"})
_MAX_NAME_LENGTH = 1_000


class UnknownKey(LoginRefused):
    """The token was made by no key of the set: the provider may have a new one, which need not have a new
    name, nor any.
    """


def to_keys(document: Mapping[str, object]) -> KeySet:
    """The keys of a JWK Set that sign. What we know nothing of is left out. Raises LoginRefused where none is
    left.
    """
    listed = document.get("keys")
    keys = []
    for entry in listed[:MAX_KEYS] if isinstance(listed, list) else ():
        if (
            not isinstance(entry, dict)
            or entry.get("kty") not in _KEY_TYPES
            or entry.get("use", "sig") != "sig"
        ):
            continue
        try:
            keys.append(jwk.import_key(entry))
        except (JoseError, ValueError, TypeError, KeyError):
            continue
    if not keys:
        raise LoginRefused(
            "no_keys", "The identity provider publishes no key that its answers could be checked by."
        )
    return KeySet(keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenNeeds:
    """What every token of the provider has to be. `algorithms`: those that it says it signs by."""

    issuer: str
    client_id: str
    algorithms: Collection[str]
    now: datetime
    skew: timedelta


def verified(token: str, keys: KeySet, needs: TokenNeeds, *, nonce: str) -> dict[str, Any]:
    """The claims of an ID token that is all that it must be. Raises UnknownKey, LoginRefused."""
    claims = _checked(token, keys, needs, "sub").claims
    if name_in(claims, "sub") is None:
        raise _wrong("sub")
    said = claims.get("nonce")
    if not isinstance(said, str) or not hmac.compare_digest(
        said.encode("utf-8", "surrogatepass"), nonce.encode()
    ):
        raise LoginRefused(
            "wrong_nonce", "The identity provider's answer is of another login: begin again.", detail="nonce"
        )
    return claims


def verified_logout(token: str, keys: KeySet, needs: TokenNeeds) -> ProvenLogout:
    """What a logout token ends. Raises UnknownKey, LoginRefused."""
    found = _checked(token, keys, needs, "jti")
    claims = found.claims
    kind = str(found.header.get("typ", "jwt")).lower().removeprefix("application/")
    if kind not in _LOGOUT_TYPES:
        raise _wrong("typ")
    events = claims.get("events")
    if not isinstance(events, Mapping) or not isinstance(events.get(LOGOUT_EVENT), Mapping):
        raise _wrong("events")
    if "nonce" in claims:  # so that it is no ID token, whatever else it says
        raise _wrong("nonce")
    if needs.now.timestamp() - claims["iat"] > (LOGOUT_LIFE + needs.skew).total_seconds():
        raise _expired("iat")
    names = {claim: name_in(claims, claim) for claim in ("sub", "sid", "jti")}
    if any(name is None and claims.get(claim) is not None for claim, name in names.items()):
        raise _wrong("sub, sid or jti cannot be a name")
    subject, sid, token_id = names.values()
    if token_id is None or (subject is None and sid is None):
        raise _wrong("neither sub nor sid")
    return ProvenLogout(
        issuer=needs.issuer,
        subject=subject,
        sid=sid,
        issued_at=issued_at(claims),
        token_id=token_id,
        void_at=needs.now + LOGOUT_LIFE + 2 * needs.skew,
    )


def issued_at(claims: Mapping[str, Any]) -> datetime:
    """By the provider's clock, of claims that were checked."""
    return datetime.fromtimestamp(max(0, claims["iat"]), tz=UTC)


def name_in(claims: Mapping[str, object], claim: str) -> str | None:
    """By which the provider names a person, a session or a token; None where there is none that can be
    stored.
    """
    found = claims.get(claim)
    usable = isinstance(found, str) and 0 < len(found) <= _MAX_NAME_LENGTH and found.isprintable()
    return str(found) if usable else None


def _checked(token: str, keys: KeySet, needs: TokenNeeds, essential: str) -> Token:
    """Signed by the provider, for us, of now, with this claim beside."""
    signs = sorted(ASYMMETRIC & set(needs.algorithms))
    registry = jws.JWSRegistry(algorithms=signs, strict_check_header=False)
    registry.max_header_length = _MAX_HEADER_BYTES
    found = _signed(token, keys, registry)
    expected = JWTClaimsRegistry(
        now=int(needs.now.timestamp()),
        leeway=int(needs.skew.total_seconds()),
        iss={"essential": True, "value": needs.issuer},
        aud={"essential": True, "value": needs.client_id},
        exp={"essential": True},
        iat={"essential": True},
        **{essential: _ESSENTIAL},
    )
    try:
        expected.validate(found.claims)
    except ExpiredTokenError as error:
        raise _expired(str(error)) from error
    except JoseError as error:
        raise _wrong(str(error)) from error
    _check_audience(found.claims, needs.client_id)
    return found


def _signed(token: str, keys: KeySet, registry: jws.JWSRegistry) -> Token:
    if not registry.allowed:
        raise LoginRefused("no_algorithm", "The identity provider signs by nothing that can be trusted here.")
    try:
        return jwt.decode(token, keys, registry=registry)
    except InvalidKeyIdError as error:
        raise UnknownKey("unknown_key", _WRONG, detail=str(error)) from error
    except BadSignatureError as error:
        raise UnknownKey("not_trusted", _WRONG, detail=str(error)) from error
    except (JoseError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise _wrong(f"{type(error).__name__}: {error}") from error


def _check_audience(claims: Mapping[str, object], client_id: str) -> None:
    """A token for several must say that it was we who asked. Source: OpenID Connect Core, 3.1.3.7 (4, 5)."""
    audience, party = claims["aud"], claims.get("azp")
    several = isinstance(audience, Sequence) and not isinstance(audience, str) and len(audience) > 1
    if party != client_id if party is not None else several:
        raise _wrong("azp")


_WRONG = (
    "The identity provider's answer cannot be trusted, so nobody was logged in. Ask whoever runs the gateway."
)


def _expired(detail: str) -> LoginRefused:
    said = "The identity provider's answer is too old: try again, and look at the clocks."
    return LoginRefused("expired", said, detail=detail)


def _wrong(detail: str) -> LoginRefused:
    return LoginRefused("not_trusted", _WRONG, detail=detail)
