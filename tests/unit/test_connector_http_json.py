"""The JSON connector's template, signature and times. Pure."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.http_json.connector import build
from connectors.http_json.mapping import read, sign, to_outcomes, to_time, to_values
from connectors.http_json.settings import Results, Signature
from connectors.http_json.template import compiled, placeholders
from gateway.model.connector import ConnectorSettings
from gateway.model.outcome import Accepted, Rejected, Superseded
from gateway.model.reading import Reading

KNOWN = {"value", "meter", "unit"}


def filled(template: object, **values: object) -> object:
    return compiled(template, known=KNOWN)({"value": 1.5, "meter": "m", "unit": None, **values})


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("{value}", 1.5),
        ("{meter}: {value} {unit}", "m: 1.5 "),
        ("{{value}} {value}", "{value} 1.5"),
        ({"v": "{value}", "u": "{unit}", "n": None, "fixed": 7}, {"v": 1.5, "n": None, "fixed": 7}),
        (["{value}", {"deep": [True, "{meter}"]}], [1.5, {"deep": [True, "m"]}]),
        ("no placeholder", "no placeholder"),
        ("}{", "}{"),
    ],
)
def test_a_template_is_filled(template: object, wanted: object) -> None:
    assert filled(template) == wanted


def test_types_are_kept_and_written_as_json_would() -> None:
    assert filled("{value}", value=True) is True
    assert filled("is {value}", value=True) == "is true"
    assert filled("{value}", value="text") == "text"


@given(st.text())
def test_what_is_filled_in_is_never_looked_at_again(text: str) -> None:
    assert filled({"m": "{meter}", "t": "<{meter}>"}, meter=text) == {"m": text, "t": f"<{text}>"}
    assert filled("{meter}{value}", meter="{value}{meter}{{") == "{value}{meter}{{1.5"


@pytest.mark.parametrize(
    "template",
    [
        "{value.__class__}",
        "{0}",
        "{}",
        "{value!r}",
        "{Value}",
        {"a": object()},
        {1: "a"},
        [["{value}"] * 100] * 3,
        [[[[[[[[[["deep"]]]]]]]]]],
    ],
)
def test_what_is_no_template_is_refused(template: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        compiled(template, known=KNOWN)


def test_placeholders_are_found_everywhere() -> None:
    assert placeholders({"a": ["{x}", {"b": "y {z} {{no}}"}], "{key}": 1}) == {"x", "z"}


@pytest.mark.parametrize("encoding", ["hex", "base64"])
def test_a_signature_is_the_hmac_of_the_very_bytes(encoding: Literal["hex", "base64"]) -> None:
    body = b'{"a":1}'
    digest = hmac.new(b"secret", body, hashlib.sha256)
    written = sign("secret", body, Signature(encoding=encoding, prefix="v1="))
    assert written.startswith("v1=")
    assert (bytes.fromhex(written[3:]) == digest.digest()) if encoding == "hex" else len(written) == 3 + 44


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("iso", "2026-11-02T10:00:00.123456Z"),
        ("epoch_milliseconds", 1793613600123),
        ("epoch_seconds", 1793613600),
    ],
)
def test_times_are_written_as_set(
    written: Literal["iso", "epoch_milliseconds", "epoch_seconds"], wanted: object
) -> None:
    assert to_time(datetime(2026, 11, 2, 10, 0, 0, 123456, tzinfo=UTC), written) == wanted


def test_a_path_that_leads_nowhere_is_none() -> None:
    assert read({"a": {"b": 1}}, "a.b") == 1
    assert read({"a": {"b": 1}}, "a.b.c") is None
    assert read([1], "a") is None
    assert read([1], "$") == [1]


@pytest.mark.parametrize(
    ("settings", "keeps"),
    [
        ({"deduplicates": True}, False),
        ({"deduplicates": True, "reading": {"k": "{key}", "v": "{value}", "at": "{position}"}}, True),
        ({"deduplicates": True, "body": {"at": "{position}", "items": "{readings}"}}, True),
        ({"reading": {"v": "{value}", "at": "{position}"}}, False),
    ],
)
def test_a_receiver_that_is_told_positions_and_keeps_one_reading_a_key_keeps_the_latest(
    settings: dict[str, object], keeps: bool
) -> None:
    connector = build(
        ConnectorSettings(
            connection="c",
            hosting="cloud",
            settings={"base_url": "https://receiver.example.org", **settings},
            credentials={},
            timeout_seconds=5,
        )
    )
    assert connector.capabilities.keeps_latest is keeps


def test_a_position_is_a_whole_number_and_its_answer_a_word() -> None:
    position = 1_795_881_599_000_000
    reading = Reading(key="k", meter="m", window_start=datetime(2026, 1, 1, tzinfo=UTC), value=1.0)
    values = to_values(reading, connection="c", time="iso", position=position)
    assert not isinstance(values, Rejected) and values["position"] == position < 2**53
    answer = {"results": [{"status": "superseded", "message": "older"}, {"status": "accepted"}]}
    assert to_outcomes(answer, Results(), expected=2, clean=str) == [Superseded(message="older"), Accepted()]
