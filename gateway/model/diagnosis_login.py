"""What the doctor finds about the identity provider by which people log in, out of what it said of itself and
how it took a login that nobody is there for. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import parse_qs, urlsplit

from gateway.model.diagnosis import Finding, Looked, looked, problem, warning

NEEDS_A_PERSON = frozenset(
    {"login_required", "interaction_required", "consent_required", "account_selection_required"}
)
"""What a provider answers that would have let somebody log in. Source: OpenID Connect Core, 3.1.2.6."""

ADVICE = {
    "another_issuer": "write oidc.issuer exactly as the provider calls itself there",
    "no_endpoint": "correct oidc.issuer: what is at that address describes no provider that can be used",
    "no_keys": "have the provider publish the keys that it signs with (jwks_uri)",
}
AWAY = (
    "start it, or let this machine reach it (name, firewall, oidc.ca_file); until then `fieldgate login`"
    " gives one-time links"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginAnswer:
    """How the provider took a login that it was to ask nobody about. `location`: where it sends the browser;
    `date`: its clock, at `at`.
    """

    status: int
    location: str
    date: datetime | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginNeeds:
    """What the gateway is registered as. `signs`: whether it signs by anything that is trusted here."""

    client_id: str
    redirect_uri: str
    client_authentication: str
    skew_seconds: float
    signs: bool


def judge_login(document: Mapping[str, object], answer: LoginAnswer, needs: LoginNeeds) -> Looked:
    """Of a provider whose description of itself (`document`) can be used and that has keys."""
    unseen = None
    if not _is_ours(answer, needs) and answer.status < 400:
        unseen = (
            f"whether {needs.redirect_uri} is registered: the provider says so to people only; log in once"
        )
    return looked([*_of_the_document(document, needs), *_of_the_answer(answer, needs)], [unseen])


def _of_the_document(document: Mapping[str, object], needs: LoginNeeds) -> Iterator[Finding]:
    if not needs.signs:
        yield problem(
            "the provider signs by nothing that can be trusted here",
            where="oidc.issuer",
            advice="have it sign ID tokens by RS256, PS256, ES256 or EdDSA",
        )
    if "code" not in _listed(document, "response_types_supported", "code"):
        yield problem(
            "the provider does not offer the authorization code flow",
            where="oidc.issuer",
            advice="turn it on there (response type `code`)",
        )
    wanted = {"basic": "client_secret_basic", "body": "client_secret_post"}[needs.client_authentication]
    offered = _listed(document, "token_endpoint_auth_methods_supported", "client_secret_basic")
    if wanted not in offered and offered & {"client_secret_basic", "client_secret_post"}:
        yield problem(
            f"the provider does not take the client's secret as it is sent ({wanted})",
            where="oidc.client_authentication",
            advice="set it to the other of `basic` and `body`",
        )
    if "S256" not in _listed(document, "code_challenge_methods_supported", "S256"):
        yield warning(
            "the provider does not say that it checks PKCE by S256",
            where="oidc.issuer",
            advice="turn it on there for this client: a code that was intercepted is worth nothing then",
        )


def _of_the_answer(answer: LoginAnswer, needs: LoginNeeds) -> Iterator[Finding]:
    if answer.date is not None:
        ahead = (answer.date - answer.at).total_seconds()
        # its clock is told in whole seconds, some of which the answer took
        if abs(ahead) > needs.skew_seconds + 1:
            yield problem(
                f"the provider's clock is {abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}, and"
                f" {needs.skew_seconds:g} s are allowed for",
                where="oidc.clock_skew",
                advice="set the clocks (NTP) of this machine and of the provider",
            )
    if answer.status >= 500:
        yield problem(f"the provider answers a login with {answer.status}", where="oidc.issuer", advice=AWAY)
    elif answer.status >= 400:
        yield problem(
            f"the provider does not let anybody log in to this gateway (it answers {answer.status})",
            where="oidc.client_id",
            advice=f"register {needs.redirect_uri}, to the letter, as the redirect address of the client"
            f" {needs.client_id!r}; it is made of http.public_url",
        )
    elif _is_ours(answer, needs):
        said = parse_qs(urlsplit(answer.location).query)
        error = (said.get("error") or [""])[0]
        if error and error not in NEEDS_A_PERSON:
            words = (said.get("error_description") or [""])[0]
            yield problem(
                f"the provider refuses a login to this gateway: {error[:100]} {words[:200]}".rstrip(),
                where="oidc.scopes" if error == "invalid_scope" else "oidc.client_id",
                advice="allow the client this at the provider, or correct what is asked of it",
            )


def _is_ours(answer: LoginAnswer, needs: LoginNeeds) -> bool:
    """Whether the browser would come back here: then the redirect address is registered."""
    return 300 <= answer.status < 400 and answer.location.partition("?")[0] == needs.redirect_uri


def _listed(document: Mapping[str, object], name: str, usual: str) -> frozenset[str]:
    """What a list of the document holds; the usual value where it has no such list."""
    found = document.get(name)
    return frozenset(map(str, found)) if isinstance(found, list) else frozenset((usual,))
