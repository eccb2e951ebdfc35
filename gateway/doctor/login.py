"""Looks at the identity provider by which people log in: what it says of itself, its keys, and how it takes a
login to this gateway that it is told to ask nobody about (`prompt=none`), which changes nothing there.

Source: OpenID Connect Core 1.0 (3.1.2.1, 3.1.2.6); OpenID Connect Discovery 1.0 (4).
"""

from __future__ import annotations

import base64
import hashlib
from urllib.parse import urlencode, urlsplit

from gateway import clock
from gateway.model.diagnosis import Looked, looked, problem
from gateway.model.diagnosis_login import ADVICE, AWAY, LoginAnswer, LoginNeeds, judge_login
from gateway.model.errors import ConnectorError
from gateway.model.identity import LoginRefused, ProviderAway
from gateway.settings import Settings
from gateway.store.access import new_secret

WHERE = "oidc.issuer"


async def look(settings: Settings) -> Looked:
    """Of the provider that the settings name; OK where they name none."""
    from connectors.kit.identity import IdentityCalls  # what checks tokens is loaded where it is used
    from gateway.identity.id_token import ASYMMETRIC
    from gateway.identity.provider import CALL_SECONDS, WELL_KNOWN, Provider

    oidc = settings.oidc
    if oidc.issuer is None:
        return looked([])
    calls = IdentityCalls(ca_file=oidc.ca_file)
    provider = Provider(oidc.issuer, calls, allowed=settings.egress.allow)
    try:
        metadata = await provider.metadata()
        await provider.keys(metadata)
        document = await calls.document(
            oidc.issuer.rstrip("/") + WELL_KNOWN,
            reach=provider.reach(oidc.issuer),
            timeout_seconds=CALL_SECONDS,
        )
        needs = LoginNeeds(
            client_id=oidc.client_id or "",
            redirect_uri=f"{settings.http.public_url.rstrip('/')}/login/oidc/callback",
            client_authentication=oidc.client_authentication,
            skew_seconds=oidc.clock_skew.total_seconds(),
            signs=bool(ASYMMETRIC & metadata.algorithms),
        )
        url = _asked(metadata.authorization_url, needs, oidc.scopes)
        reach = provider.reach(url)
        seen = await calls.seen(f"{url}&prompt=none", reach=reach, timeout_seconds=CALL_SECONDS)
        if seen[0] >= 500:  # some break at what they do not know, as django-oauth-toolkit does
            seen = await calls.seen(url, reach=reach, timeout_seconds=CALL_SECONDS)
    except LoginRefused as error:
        advice = ADVICE.get(error.reason, "see docs/login.md")
        return looked([problem(f"{oidc.issuer}: {error.detail}", where=WHERE, advice=advice)])
    except (ProviderAway, ConnectorError) as error:
        host = urlsplit(oidc.issuer).hostname
        return looked([problem(f"{host} does not answer: {error}", where=WHERE, advice=AWAY)])
    status, location, date = seen
    answer = LoginAnswer(status=status, location=location, date=date, at=clock.now())
    return judge_login(document, answer, needs)


def _asked(url: str, needs: LoginNeeds, scopes: tuple[str, ...]) -> str:
    """A login as the login page begins it."""
    challenge = hashlib.sha256(new_secret().encode()).digest()
    query = {
        "response_type": "code",
        "client_id": needs.client_id,
        "redirect_uri": needs.redirect_uri,
        "scope": " ".join(scopes),
        "state": new_secret(),
        "nonce": new_secret(),
        "code_challenge": base64.urlsafe_b64encode(challenge).rstrip(b"=").decode(),
        "code_challenge_method": "S256",
    }
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"
