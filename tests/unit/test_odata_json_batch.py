"""`$batch` in JSON: what is written, and which answers are believed. Pure."""

from __future__ import annotations

import contextlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.http_json.settings import HttpJsonCredentials
from connectors.kit.odata.batch import BatchRequest, UnreadableBatch, build_json, read_json
from connectors.odata.settings import ODataCredentials
from gateway.http.dashboard.credential_form import form_fields


def test_a_change_has_its_body_and_a_query_none() -> None:
    written = orjson.loads(
        build_json([BatchRequest(target="Set", body=b'{"a":1}'), BatchRequest(target="Set?$top=1")])
    )
    assert written == {
        "requests": [
            {
                "id": "1",
                "method": "POST",
                "url": "Set",
                "headers": {"accept": "application/json", "content-type": "application/json"},
                "body": {"a": 1},
            },
            {"id": "2", "method": "GET", "url": "Set?$top=1", "headers": {"accept": "application/json"}},
        ]
    }


def test_answers_belong_to_their_ids_and_a_missing_one_was_not_reached() -> None:
    answers = read_json(
        {
            "responses": [
                {"id": "3", "status": 201, "headers": {"Location": "x"}, "body": {"a": 1}},
                {"id": "1", "status": 400},
            ]
        },
        expected=3,
    )
    assert [answer and answer.status for answer in answers] == [400, None, 201]
    assert answers[2] is not None
    assert (answers[2].json, answers[2].body, answers[2].headers) == ({"a": 1}, b'{"a":1}', {"location": "x"})


def test_answers_without_ids_come_in_order() -> None:
    answers = read_json({"responses": [{"id": None, "status": 201}, {"status": 204}]}, expected=3)
    assert [answer and answer.status for answer in answers] == [201, 204, None]


@pytest.mark.parametrize(
    "responses",
    [
        None,
        {},
        [{"id": "1"}],
        [{"id": "1", "status": "201"}],
        ["x"],
        [{"id": "4", "status": 201}],
        [{"id": "0", "status": 201}],
        [{"id": "x", "status": 201}],
        [{"id": 1.5, "status": 201}],
        [{"id": "1", "status": 201}, {"id": "1", "status": 201}],
        [{"status": 201}] * 4,
    ],
)
def test_an_answer_that_fits_nothing_says_nothing(responses: object) -> None:
    with pytest.raises(UnreadableBatch):
        read_json({"responses": responses}, expected=3)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["responses", "id", "status", "headers", "body"]), inner)
        ),
    )
)
def test_any_json_is_read_or_unreadable(document: object) -> None:
    with contextlib.suppress(UnreadableBatch):
        assert len(read_json(document, expected=3)) == 3


def test_forms_ask_for_one_kind_of_credential() -> None:
    schema = ODataCredentials.model_json_schema()
    kinds = {kind["properties"]["type"]["const"]: kind["required"] for kind in schema["oneOf"]}
    assert kinds == {
        "oauth2_client_credentials": ["token_url", "client_id", "client_secret"],
        "oauth2_authorization_code": ["authorization_url", "token_url", "client_id"],
        "basic": ["username", "password"],
        "api_key": ["api_key"],
    }
    assert [field.name for field in form_fields(HttpJsonCredentials.model_json_schema(), "hmac")] == [
        "secret"
    ]
