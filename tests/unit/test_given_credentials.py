"""Credentials are refused where they are given when they cannot be sent, for every system, by the place of
the character and without the value: from a file, by the API, on the customer's page.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from connectors.kit.credentials import MAX_LENGTH, RULES, Credentials
from connectors.kit.oauth import OAuthExchange, authorization_url
from connectors.registry import SYSTEMS
from gateway.model.credential import Credential
from gateway.model.errors import BadConfiguration
from tests.unit.test_configuration import SECURITY, told

FIELDS = [
    (name, field) for name, system in SYSTEMS.items() for field in system.credentials_model.model_fields
]
SENT_IN_A_HEADER = ("api_key", "client_id", "client_secret", "scope")


def fault_of(system: str, field: str, value: str) -> str | None:
    """What the system's model says of this field."""
    try:
        SYSTEMS[system].credentials_model.model_validate({field: value})
    except ValidationError as error:
        return next((str(each["msg"]) for each in error.errors() if each["loc"] == (field,)), None)
    return None


def test_every_field_of_every_system_has_a_rule() -> None:
    assert {field for _, field in FIELDS} <= RULES.keys()
    assert all(issubclass(system.credentials_model, Credentials) for system in SYSTEMS.values())


@pytest.mark.parametrize(("system", "field"), FIELDS)
@pytest.mark.parametrize("letter", ["\0", "\x07", "\x7f", "\x1b"])
def test_no_field_takes_a_control_character(system: str, field: str, letter: str) -> None:
    fault = fault_of(system, field, f"hidden{letter}word")
    assert fault is not None and "hidden" not in fault and "word" not in fault.replace("password", "")


@pytest.mark.parametrize(("system", "field"), FIELDS)
def test_no_field_takes_more_than_it_can_send(system: str, field: str) -> None:
    assert fault_of(system, field, "https://h/" + "x" * (8 * MAX_LENGTH)) is not None


@pytest.mark.parametrize(
    ("system", "field"), [each for each in FIELDS if each[1] not in ("certificate", "private_key")]
)
@pytest.mark.parametrize("letter", ["\u00a0", "\u202f", "\u2028", "\u200b", "\ufeff", "\n", "\r", "\t"])
def test_what_a_paste_brings_is_named(system: str, field: str, letter: str) -> None:
    fault = fault_of(system, field, f"postgresql://hidden{letter}")
    assert fault is not None and "hidden" not in fault
    if RULES[field].__name__ in ("is_header", "is_word", "is_user", "is_address"):
        assert "character 20 is a" in fault and f"U+{ord(letter):04X}" in fault


@pytest.mark.parametrize(("system", "field"), [each for each in FIELDS if each[1] in SENT_IN_A_HEADER])
def test_a_header_takes_ascii_without_spaces_around_it(system: str, field: str) -> None:
    assert "character 3 is outside of ASCII" in str(fault_of(system, field, "kk\u00e9y"))
    assert "character 1 is a space" in str(fault_of(system, field, " key"))
    assert "character 4 is a space" in str(fault_of(system, field, "key "))
    assert fault_of(system, field, "a key~!") is None


@pytest.mark.parametrize(("system", "field"), [each for each in FIELDS if each[1] in ("password", "secret")])
def test_a_password_may_be_in_any_script(system: str, field: str) -> None:
    assert fault_of(system, field, "pässwörd 密码 : with words") is None


@pytest.mark.parametrize(
    "url",
    ["ftp://h/t", "https://h:0/t", "https://[h/t", "https://h/t#f", "https://u:p@h/t", "http://h/t", "t"],
)
@pytest.mark.parametrize("system", ["http_json", "odata", "sap_s4hana"])
def test_an_address_is_one_that_can_be_called(system: str, url: str) -> None:
    assert fault_of(system, "token_url", url) is not None
    assert fault_of(system, "token_url", "https://login.example/t?tenant=a") is None


def test_a_user_has_no_colon() -> None:
    assert "character 2 is a colon" in str(fault_of("sap_ecc", "username", "a:b"))


@pytest.mark.parametrize(
    ("system", "credentials", "fault"),
    [
        ("maintainx", {"type": "api_key", "api_key": "k\u00e9y"}, "credentials.api_key: character 2 is outside of ASCII"),
        ("maintainx", {"type": "api_key", "api_key": "key\u00a0"}, "credentials.api_key: character 4 is a non-breaking space (U+00A0)"),
        ("postgres", {"type": "dsn", "dsn": "postgresql://a:p@ss@h/d"}, "credentials.dsn: percent-encode `@` as %40"),
        ("postgres", {"type": "dsn", "dsn": "postgresql://a:b@h/d?sslmode=parse"}, "credentials.dsn: sslmode must be"),
    ],
)  # fmt: skip
def test_a_file_is_refused_with_its_line(
    tmp_path: Path, system: str, credentials: dict[str, str], fault: str
) -> None:
    name = next(each for each in credentials if each != "type")
    given = {**credentials, name: "${env:GIVEN}"}
    settings = "{base_url: 'https://h.example'}" if system == "maintainx" else "{}"
    text = (
        f"connections:\n  - {{id: c, customer: acme, system: {system}, settings: {settings},\n    "
        f" credentials: {given!s}}}\n"
    )
    faults = told(tmp_path, SECURITY + "customers: [acme]\n", text, {"GIVEN": credentials[name]})
    assert len(faults) == 1 and faults[0].startswith(f"connections.yaml:3: connections[0].{fault}"), faults


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://a:p@ss@h/d",
        "postgresql://a:p/ss@h/d",
        "jdbc:postgresql://h/d",
        "mysql://h/d",
        "host=h dbname=d",
        "postgresql://a:b@h:x/d",
    ],
)
def test_the_gateways_own_dsn_is_refused_with_its_line(tmp_path: Path, dsn: str) -> None:
    (fault,) = told(tmp_path, SECURITY + "database:\n  dsn: '${env:OWN}'\n", environ={"OWN": dsn})
    assert fault.startswith("main.yaml:3: database.dsn: ") and "ss@h" not in fault


@pytest.mark.parametrize("name", ["client_id", "client_secret", "scope", "token_url", "authorization_url"])
async def test_what_was_stored_before_the_rules_is_a_configuration_fault_and_is_not_sent(name: str) -> None:
    address = "https://127.0.0.1:1/"
    values: dict[str, Any] = {
        "token_url": address,
        "authorization_url": address,
        "client_id": "c",
        "client_secret": "s",
        "scope": "a",
    }
    values[name] = "hidden\u00e9"
    credential = Credential(generation=1, type="oauth2_client_credentials", values=values)
    with pytest.raises(BadConfiguration) as caught:
        if name == "authorization_url":
            authorization_url(values, redirect_uri="https://g/", state="s", verifier="v")
        await OAuthExchange().refresh(credential, None, timeout_seconds=1)
    assert f"credentials.{name}" in str(caught.value) and "hidden" not in str(caught.value)
