"""Whether an ID token is the provider's, for us, of this login and of now. The only one that knows JOSE, and
that by a library.

Source: OpenID Connect Core 1.0 (2, 3.1.3.7); RFC 8725 (JSON Web Token Best Current Practices).
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from joserfc import jwk, jws, jwt
from joserfc.errors import BadSignatureError, ExpiredTokenError, InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jwt import JWTClaimsRegistry

from gateway.model.identity import LoginRefused

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


def verified(
    token: str,
    keys: KeySet,
    *,
    issuer: str,
    client_id: str,
    nonce: str,
    algorithms: Collection[str],
    now: datetime,
    skew: timedelta,
) -> dict[str, Any]:
    """The claims of a token that is all that it must be. Raises UnknownKey, LoginRefused."""
    registry = jws.JWSRegistry(algorithms=sorted(ASYMMETRIC & set(algorithms)), strict_check_header=False)
    registry.max_header_length = _MAX_HEADER_BYTES
    claims = _signed(token, keys, registry)
    expected = JWTClaimsRegistry(
        now=int(now.timestamp()),
        leeway=int(skew.total_seconds()),
        iss={"essential": True, "value": issuer},
        sub={"essential": True},
        aud={"essential": True, "value": client_id},
        exp={"essential": True},
        iat={"essential": True},
    )
    try:
        expected.validate(claims)
    except ExpiredTokenError as error:
        raise LoginRefused(
            "expired", "The identity provider's answer is too old: try again, and look at the clocks.",
            detail=str(error),
        ) from error  # fmt: skip
    except JoseError as error:
        raise _wrong(str(error)) from error
    _check_audience(claims, client_id)
    said = claims.get("nonce")
    if not isinstance(said, str) or not hmac.compare_digest(
        said.encode("utf-8", "surrogatepass"), nonce.encode()
    ):
        raise LoginRefused(
            "wrong_nonce", "The identity provider's answer is of another login: begin again.", detail="nonce"
        )
    return claims


def _signed(token: str, keys: KeySet, registry: jws.JWSRegistry) -> dict[str, Any]:
    if not registry.allowed:
        raise LoginRefused("no_algorithm", "The identity provider signs by nothing that can be trusted here.")
    try:
        return jwt.decode(token, keys, registry=registry).claims
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


def _wrong(detail: str) -> LoginRefused:
    return LoginRefused("not_trusted", _WRONG, detail=detail)
