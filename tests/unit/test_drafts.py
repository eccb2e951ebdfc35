"""What is entered step by step, what a try came to, and how long tokens are used."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.credential import TokenGrant, refresh_after, usable_for
from gateway.model.draft import Draft, from_document, to_document
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    ConfigError,
    ConnectorError,
    OutcomeUnknown,
    PermissionDenied,
    RateLimited,
    StoreUnavailable,
    Unavailable,
    fault_of,
)
from gateway.model.exchange import RemoteMeter
from gateway.model.verification import Readable, Verdict, Verification, refused_by

GRANT = TokenGrant(
    access_token="a", refresh_token="r", expires_in_seconds=60.0, scope="s", refresh_expires_in_seconds=600.0
)
VERIFIED = Verification(
    verdict=Verdict.VERIFIED,
    account="acme",
    records=(Readable(stream="orders", title="Orders", detail="hidden"),),
    meters=(RemoteMeter(meter="m", title="M", unit="h"),),
)
DRAFT = Draft(
    back="/connect",
    customer="acme",
    system="erp",
    hosting="cloud",
    settings={"base_url": "https://a"},
    fixed=("base_url",),
    credential_type="oauth2",
    credentials={"client_id": "c"},
    grant=GRANT,
    granted_at=1000.0,
    verified=VERIFIED,
    tries=3,
    meters=({"meter": "m"},),
)


def test_what_was_verified_says_nothing_of_other_settings() -> None:
    changed = DRAFT.with_settings(settings={"base_url": "https://b"}, id="x")
    assert changed == replace(
        DRAFT, settings={"base_url": "https://b"}, id="x", has_settings=True, verified=None
    )


def test_neither_login_nor_verification_holds_for_other_credentials() -> None:
    changed = DRAFT.with_credentials("api_key", {"key": "k"})
    assert changed == replace(
        DRAFT, credential_type="api_key", credentials={"key": "k"}, grant=None, verified=None
    )


@pytest.mark.parametrize(
    ("now", "left", "refresh_left"), [(1000.0, 60.0, 600.0), (1050.0, 10.0, 550.0), (1061.0, -1.0, 539.0), (900.0, 60.0, 600.0)]
)  # fmt: skip
def test_tokens_age_from_the_login_on(now: float, left: float, refresh_left: float) -> None:
    expected = replace(GRANT, expires_in_seconds=left, refresh_expires_in_seconds=refresh_left)
    assert DRAFT.aged_grant(now) == expected
    endless = replace(DRAFT, grant=replace(GRANT, expires_in_seconds=None))
    assert endless.aged_grant(now) == replace(expected, expires_in_seconds=None)
    assert replace(DRAFT, grant=None).aged_grant(now) is None


@pytest.mark.parametrize(
    "draft",
    [
        DRAFT,
        replace(DRAFT, grant=None),
        replace(DRAFT, verified=None),
        replace(DRAFT, verified=replace(VERIFIED, meters=None, records=())),
        replace(DRAFT, verified=replace(VERIFIED, verdict=Verdict.BUSY, retry_after=3.0, request_id="r")),
    ],
)
def test_a_draft_is_read_as_it_was_written(draft: Draft) -> None:
    read = from_document(to_document(draft))
    assert replace(read, fixed=tuple(read.fixed), meters=tuple(read.meters)) == draft


@pytest.mark.parametrize(
    ("error", "verdict", "retry_after"),
    [
        (AuthRefused("words", request_id="r"), Verdict.REFUSED, None),
        (AuthRefused("words", doubtful=True, request_id="r"), Verdict.UNAVAILABLE, None),
        (PermissionDenied("words", request_id="r"), Verdict.DENIED, None),
        (BadConfiguration("words", request_id="r"), Verdict.MISCONFIGURED, None),
        (RateLimited("words", retry_after=7.0, request_id="r"), Verdict.BUSY, 7.0),
        (Unavailable("words", retry_after=8.0, request_id="r"), Verdict.UNAVAILABLE, 8.0),
        (OutcomeUnknown("words", request_id="r"), Verdict.UNAVAILABLE, None),
        (ConnectorError("words", request_id="r"), Verdict.UNAVAILABLE, None),
    ],
)
def test_what_a_probe_that_failed_says(
    error: ConnectorError, verdict: Verdict, retry_after: float | None
) -> None:
    found = refused_by(error)
    assert (found.verdict, found.detail, found.request_id, found.retry_after) == (
        verdict,
        "words",
        "r",
        retry_after,
    )
    assert not found.is_good and VERIFIED.is_good


def test_a_probe_without_an_answer_in_time_says_so() -> None:
    found = refused_by(TimeoutError())
    assert found.verdict is Verdict.UNAVAILABLE and found.detail


@given(st.floats(1, 1e6), st.floats(0, 1, exclude_max=True))
def test_a_token_is_refreshed_before_it_is_used_no_more(lifetime: float, rand: float) -> None:
    assert 0.72 * lifetime <= refresh_after(lifetime, rand=rand) * (1 + 1e-9)
    assert refresh_after(lifetime, rand=rand) <= 0.8 * lifetime * (1 + 1e-9)
    assert refresh_after(lifetime, rand=rand) < usable_for(lifetime) < lifetime


@pytest.mark.parametrize(
    ("lifetime", "usable"), [(100.0, 95.0), (600.0, 570.0), (601.0, 571.0), (3600.0, 3570.0)]
)
def test_a_call_begins_while_a_token_is_good_for_its_time(lifetime: float, usable: float) -> None:
    assert usable_for(lifetime) == usable


OURS, CONFIGURATION, OTHERS = StoreUnavailable("away"), ConfigError("line 7"), KeyError("x")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OURS, OURS),
        (OTHERS, None),
        (ExceptionGroup("g", [OURS]), OURS),
        (ExceptionGroup("g", [OTHERS]), None),
        (ExceptionGroup("g", [OURS, OTHERS]), None),
        (ExceptionGroup("g", [OURS, CONFIGURATION]), CONFIGURATION),
        (ExceptionGroup("g", [OTHERS, CONFIGURATION]), CONFIGURATION),
        (ExceptionGroup("g", [OURS, ExceptionGroup("h", [CONFIGURATION])]), CONFIGURATION),
        (ExceptionGroup("g", [ExceptionGroup("h", [OTHERS, OURS])]), None),
    ],
)
def test_what_is_told_of_what_ended_a_command(error: BaseException, told: Exception | None) -> None:
    assert fault_of(error) is told
