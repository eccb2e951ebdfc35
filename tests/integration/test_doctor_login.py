"""What the doctor sees of the identity provider by which people log in: at one that we did not write, each thing
set wrong on purpose, and the verdict on each answer that others give.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.doctor import Doctor
from gateway.login_settings import OidcSettings
from gateway.model.diagnosis import Looked, Severity
from gateway.model.diagnosis_login import LoginAnswer, LoginNeeds, judge_login
from gateway.settings import Settings
from tests.fixtures.connection_rig import settings
from tests.fixtures.http_rig import URL
from tests.fixtures.oauth_server import PEOPLE, OAuthServer


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[OAuthServer]:
    async with OAuthServer(tmp_path) as started:
        yield started


def wanted(issuer: str, public_url: str = URL, **changes: Any) -> Settings:
    """As a configuration that was read: without the client's secret, which the doctor does not need."""
    made = settings()
    oidc = {"issuer": issuer, "client_id": PEOPLE["client_id"], "roles": {"admin": ["a"]}, **changes}
    http = made.http.model_copy(update={"public_url": public_url})
    return made.model_copy(update={"oidc": OidcSettings.model_validate(oidc), "http": http})


async def looked(configuration: Settings) -> Looked:
    doctor = Doctor(configuration, database=None, keys=frozenset(), fault="not asked")
    [each] = (await doctor.examine(["login"])).checks
    return each.looked


async def test_a_provider_that_is_set_up_right_gives_no_finding(real: OAuthServer) -> None:
    assert await looked(wanted(real.issuer)) == Looked()
    assert await looked(settings()) == Looked(), "nor does none"


@pytest.mark.parametrize(
    ("made_wrong", "where", "what", "advice"),
    [
        (
            {"public_url": "http://elsewhere.test"},
            "oidc.client_id",
            "not let anybody log in",
            "elsewhere.test",
        ),
        ({"client_id": "nobody"}, "oidc.client_id", "not let anybody log in", "'nobody'"),
        ({"issuer": "{issuer}/"}, "oidc.issuer", "the document's issuer is", "exactly as the provider calls"),
        ({"issuer": "{issuer}/none"}, "oidc.issuer", "404", "let this machine reach it"),
        ({"issuer": "http://127.0.0.1:9/o"}, "oidc.issuer", "does not answer", "let this machine reach it"),
        ({"scopes": ["openid", "telepathy"]}, "oidc.scopes", "invalid_scope", "correct what is asked"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
async def test_what_is_set_wrong_is_named_with_what_to_do(
    real: OAuthServer, made_wrong: dict[str, Any], where: str, what: str, advice: str
) -> None:
    given: dict[str, Any] = {"issuer": "{issuer}", **made_wrong}
    given["issuer"] = given["issuer"].format(issuer=real.issuer)
    [finding] = (await looked(wanted(**given))).findings
    assert (finding.severity, finding.where) == (Severity.PROBLEM, where)
    assert what in finding.what and advice in finding.advice


NOW = datetime(2026, 3, 1, tzinfo=UTC)
NEEDS = LoginNeeds(
    client_id="c", redirect_uri="https://g/cb", client_authentication="basic", skew_seconds=60, signs=True
)
GOOD = LoginAnswer(status=302, location="https://g/cb?error=login_required&state=s", date=NOW, at=NOW)


@pytest.mark.parametrize(
    ("document", "answer", "needs", "found"),
    [
        ({}, GOOD, NEEDS, None),
        ({}, replace(GOOD, date=NOW + timedelta(seconds=60)), NEEDS, None),
        ({}, replace(GOOD, date=NOW + timedelta(seconds=90)), NEEDS, "90 s ahead"),
        ({}, replace(GOOD, date=NOW - timedelta(seconds=90)), NEEDS, "90 s behind"),
        ({}, replace(GOOD, date=None), NEEDS, None),
        ({}, replace(GOOD, location="https://g/cb?code=x"), NEEDS, None),
        ({}, replace(GOOD, location="https://g/cb?error=unauthorized_client"), NEEDS, "unauthorized_client"),
        ({}, replace(GOOD, status=400, location=""), NEEDS, "it answers 400"),
        ({}, replace(GOOD, status=503, location=""), NEEDS, "answers a login with 503"),
        ({}, GOOD, replace(NEEDS, signs=False), "signs by nothing"),
        ({"response_types_supported": ["id_token"]}, GOOD, NEEDS, "authorization code flow"),
        (
            {"token_endpoint_auth_methods_supported": ["client_secret_post"]},
            GOOD,
            NEEDS,
            "client_secret_basic",
        ),
        ({"token_endpoint_auth_methods_supported": ["private_key_jwt"]}, GOOD, NEEDS, None),
        ({"code_challenge_methods_supported": ["plain"]}, GOOD, NEEDS, "PKCE"),
    ],
)
def test_the_verdict(
    document: dict[str, object], answer: LoginAnswer, needs: LoginNeeds, found: str | None
) -> None:
    seen = judge_login(document, answer, needs)
    assert [found in one.what for one in seen.findings if found] == [True] * (found is not None)
    assert seen.unseen == ()


@pytest.mark.parametrize("answer", [(200, ""), (302, "https://id/login")])
def test_a_provider_that_shows_a_page_all_the_same_is_no_finding_and_not_good_either(
    answer: tuple[int, str],
) -> None:
    seen = judge_login({}, replace(GOOD, status=answer[0], location=answer[1]), NEEDS)
    assert seen.findings == () and "whether https://g/cb is registered" in seen.unseen[0]
