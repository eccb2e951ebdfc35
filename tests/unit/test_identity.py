"""What the claims of an identity provider mean here, and which settings of it can work."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from connectors.registry import SYSTEMS
from gateway.configuration import load
from gateway.identity.id_token import to_keys
from gateway.identity.logins import rules_of
from gateway.login_settings import OidcSettings
from gateway.model.access import Principal, Role
from gateway.model.identity import IdentityRules, LoginRefused, principal_of

ROOT = Path(__file__).parents[2]
ISSUER = "https://id.acme.example/realms/main"
GIVEN = {"issuer": ISSUER, "client_id": "fieldgate", "roles": {"admin": ["a"], "viewer": ["v"]}}


def rules(**changes: Any) -> IdentityRules:
    return rules_of(OidcSettings.model_validate({**GIVEN, "name_claim": "preferred_username", **changes}))


def found(
    claims: Mapping[str, object], known: tuple[str, ...] = ("acme",), **changes: Any
) -> Principal | str:
    given = {"preferred_username": "jane", **claims}
    try:
        return principal_of(given, rules(**changes), issuer=ISSUER, known=known)
    except LoginRefused as error:
        return error.reason


def is_(role: Role, customer: str | None = None) -> Principal:
    return Principal(name="jane@id.acme.example", role=role, customer=customer)


@pytest.mark.parametrize(
    ("claims", "changes", "expected"),
    [
        ({"groups": ["v", "a", "x"]}, {}, is_(Role.ADMIN)),  # the highest of several
        ({"groups": "v"}, {}, is_(Role.VIEWER)),  # some say one as a text
        ({"groups": {"a": {"orgs": 1}}}, {}, is_(Role.ADMIN)),  # and some as the keys of an object
        ({"realm_access": {"roles": ["a"]}}, {"roles_claim": "realm_access.roles"}, is_(Role.ADMIN)),
        ({"https://x.example/roles": ["a"]}, {"roles_claim": "https://x.example/roles"}, is_(Role.ADMIN)),
        ({"a.b": ["a"], "a": {"b": ["v"]}}, {"roles_claim": "a.b"}, is_(Role.ADMIN)),
        ({"groups": []}, {}, "no_role"),
        ({}, {}, "no_role"),
        ({"groups": None}, {}, "no_role"),
        ({"groups": 7}, {}, "no_role"),
        ({"groups": [["a"], {"a": 1}, 1]}, {}, "no_role"),
        ({"groups": ["A", "a "]}, {}, "no_role"),  # to the letter
        ({"groups": "a v"}, {}, "no_role"),
        ({"realm_access": ["a"]}, {"roles_claim": "realm_access.roles"}, "no_role"),
    ],
)
def test_roles(claims: dict[str, object], changes: dict[str, Any], expected: Principal | str) -> None:
    assert found(claims, **changes) == expected


BOUND = {"customer_claim": "company", "unbound": ["staff"]}
BY_GROUP = {"customer_claim": "groups", "customers": {"c-acme": "acme", "c-globex": "globex"}}


@pytest.mark.parametrize(
    ("claims", "changes", "expected"),
    [
        ({"groups": ["v"], "company": "acme"}, BOUND, is_(Role.VIEWER, "acme")),
        ({"groups": ["v", "staff"], "company": "acme"}, BOUND, is_(Role.VIEWER)),
        ({"groups": ["v"]}, BOUND, "no_customer"),  # bound to nobody is not: bound to none
        ({"groups": ["v"], "company": ""}, BOUND, "unknown_customer"),
        ({"groups": ["v"], "company": None}, BOUND, "no_customer"),
        ({"groups": ["v"], "company": ["acme", "globex"]}, BOUND, "several_customers"),
        ({"groups": ["v"], "company": "initech"}, BOUND, "unknown_customer"),
        ({"groups": ["v"], "company": "a/b"}, BOUND, "unknown_customer"),
        ({"groups": ["v", "c-acme"]}, BY_GROUP, is_(Role.VIEWER, "acme")),
        ({"groups": ["v", "acme"]}, BY_GROUP, "no_customer"),
        ({"groups": ["v", "c-acme", "c-globex"]}, BY_GROUP, "several_customers"),
        ({"groups": ["v", "c-globex"]}, BY_GROUP, "unknown_customer"),
        ({"groups": ["c-acme"]}, BY_GROUP, "no_role"),
    ],
)
def test_customers(claims: dict[str, object], changes: dict[str, Any], expected: Principal | str) -> None:
    assert found(claims, **changes) == expected


def test_where_no_customers_are_listed_any_id_is_one() -> None:
    assert found({"groups": ["v"], "company": "initech"}, (), **BOUND) == is_(Role.VIEWER, "initech")
    assert found({"groups": ["v"], "company": "a/b"}, (), **BOUND) == "unknown_customer"


@pytest.mark.parametrize("name", [None, "", "  ", 7, ["jane"], "a\nb", "\u202ejane", "j\ud800", "x" * 201])
def test_a_name_that_cannot_be_shown_is_none(name: object) -> None:
    assert found({"groups": ["v"], "preferred_username": name}) == "no_name"


def test_nobody_can_be_called_as_a_token_is() -> None:
    named = found({"groups": ["v"], "preferred_username": "ci"})
    assert isinstance(named, Principal) and named.name == "ci@id.acme.example"
    named = found({"groups": ["v"], "preferred_username": "jane@acme.example"})
    assert isinstance(named, Principal) and named.name == "jane@acme.example"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"issuer": "http://id.acme.example"}, "must not travel in clear"),
        ({"issuer": "https://user:pw@id.acme.example"}, "without user"),
        ({"issuer": "https://id.acme.example?x=1"}, "without user, query"),
        ({"issuer": "https://id.acme.example#x"}, "without user, query"),
        ({"issuer": "ftp://id.acme.example"}, "must not travel"),
        ({"issuer": "https://"}, "expected https"),
        ({"issuer": "https://a b"}, "expected https"),
        ({"issuer": "https://id.acme.example:99999"}, "expected https"),
        ({"client_id": ""}, "client_id"),
        ({"client_id": None}, "client_id is needed"),
        ({"roles": {}}, "nobody else may log in"),
        ({"roles": {"admin": []}}, "nobody else may log in"),
        ({"roles": {"owner": ["a"]}}, "roles"),
        ({"scopes": ["profile"]}, "`openid` is missing"),
        ({"scopes": ["openid", "a b"]}, "is no scope"),
        ({"session": "8d"}, "at most 7d"),
        ({"session": "1s"}, "at least 1m"),
        ({"clock_skew": "1h"}, "at most 5m"),
        ({"customers": {"x": "acme"}}, "go with customer_claim"),
        ({"unbound": ["x"]}, "go with customer_claim"),
        ({"customer_claim": "c", "customers": {"x": "a/b"}}, "customers"),
    ],
)
def test_settings_that_cannot_work_say_so(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        OidcSettings.model_validate({**GIVEN, **changes})
    assert said in str(error.value)


def test_the_page_shows_configurations_that_can_be_used(tmp_path: Path) -> None:
    blocks = [
        block
        for page in ("login.md", "tracing.md")
        for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    ]
    assert len(blocks) == 6
    environ = {
        "OIDC_SECRET": "x",
        "TRACING_KEY": "x",
        "KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    }
    rest = 'security: {encryption_keys: ["${env:KEY}"]}\n'
    for block in blocks:
        more = "" if "http:" in block.splitlines() else "http: {public_url: https://gateway.example.com}\n"
        (tmp_path / "main.yaml").write_text(block + more + rest)
        assert load(tmp_path / "main.yaml", environ, systems=SYSTEMS).settings


def test_a_provider_of_this_machine_needs_no_tls() -> None:
    for issuer in ("http://127.0.0.1:8080/realms/x", "http://[::1]:1", "http://localhost"):
        assert OidcSettings.model_validate({**GIVEN, "issuer": issuer}).issuer == issuer
    with pytest.raises(ValidationError):
        OidcSettings.model_validate({**GIVEN, "issuer": "http://localhost.attacker.example"})


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"keys": "none"},
        {"keys": []},
        {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "one"}]},
        {"keys": [{"kty": "RSA", "use": "enc", "n": "AQAB", "e": "AQAB"}]},
        {"keys": [{"kty": "RSA", "kid": "one"}, {"kty": "EC", "crv": "P-0", "x": "", "y": ""}, "x", None]},
    ],
)
def test_what_is_no_key_that_signs_is_left_out(document: dict[str, object]) -> None:
    with pytest.raises(LoginRefused) as error:
        to_keys(document)
    assert error.value.reason == "no_keys"
