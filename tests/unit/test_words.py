"""What of a refusal's body a tenant may read: the message of a system, and nothing of an inner service."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.http_json.mapping import to_outcomes
from connectors.http_json.settings import Results
from connectors.kit.answer import Answer
from connectors.kit.http import HttpClient
from connectors.kit.oauth import refusal
from connectors.kit.odata.envelope import fault_of
from connectors.kit.words import MAX_LENGTH, words_of

SECRET = "AKIA-inner-secret"
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"message": "no such meter"}, "no such meter"), ({"error": {"message": "locked"}}, "locked"), ({"error": "no"}, "no"),
        ({"errors": [{"message": "first"}, {"message": "second"}]}, "first"), ({"error": {"message": {"value": "SAP says"}}}, "SAP says"),
        ({"title": "Not Found", "status": 404, "detail": "the asset is gone"}, "the asset is gone"),
        ({"error": "invalid_scope", "error_description": "unknown scope"}, "unknown scope"),
    ],
)  # fmt: skip
def test_a_systems_message_is_told(document: Any, words: str) -> None:
    assert words_of(document, orjson.dumps(document), JSON) == words


def test_the_message_of_an_odata_fault_in_xml_is_told() -> None:
    body = (
        b'<?xml version="1.0"?><error xmlns="x"><code>1</code><message xml:lang="en">Point is'
        b" locked</message></error>"
    )
    assert words_of(None, body, {"content-type": "application/xml;charset=utf-8"}) == "Point is locked"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (f'{{"AccessKeyId": "{SECRET}", "Code": "Success"}}', "application/json"), (f'["{SECRET}"]', "application/json"), (f'"{SECRET}"', "application/json"),
        (f"<html><title>{SECRET}</title><p>{SECRET}</p></html>", "text/html"), (f"redis_version:7 {SECRET}", "text/plain"), (SECRET, ""),
        (f'{{"error": {{"data": {{"x": "{SECRET}"}}}}}}', "application/json"), (f"<a>{SECRET}</a>", "text/xml"),
        (f"root:x:0:0:{SECRET}:/root:/bin/bash", "application/octet-stream"),
    ],
)  # fmt: skip
def test_nothing_of_an_inner_service_is_told(body: str, kind: str) -> None:
    """Also not through the whole of a client's error."""

    async def said(status: int) -> str:
        http = HttpClient("https://system.example", headers={}, secrets=[], timeout_seconds=1)
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            document = None
        answer = Answer(
            status=status,
            headers={"content-type": kind} if kind else {},
            body=body.encode(),
            json=document,
            request_id=None,
        )
        try:
            return str(http.error(answer, "GET /x", idempotent=True)) + http.text_of(answer)
        finally:
            await http.close()

    for status in (400, 403, 404, 422, 500, 503):
        text = asyncio.run(said(status))
        assert SECRET not in text and f"({len(body)} bytes of" in text


@given(
    st.recursive(
        st.none() | st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.binary(max_size=200),
    st.text(max_size=20),
)
def test_it_never_raises_and_is_short(document: object, body: bytes, kind: str) -> None:
    assert len(words_of(document, body, {"content-type": kind})) <= max(MAX_LENGTH, 150)


@pytest.mark.parametrize("place", [0, 30, 58, 380, 398, 480, 498])
def test_no_part_of_a_secret_is_told_wherever_it_is_cut(place: int) -> None:
    """As an error's code, its message or a name, at any place of a text that is cut for people."""
    http = HttpClient("https://system.example", headers={}, secrets=[SECRET], timeout_seconds=1)
    echoed = "x" * place + SECRET + "y" * 600
    told = []
    for document in (
        {"error": echoed},
        {"error": echoed, "error_description": echoed},
        {"error": {"code": echoed, "message": echoed, "details": [{"code": echoed, "message": echoed}]}},
        {
            "error": {
                "code": echoed,
                "message": {"value": echoed},
                "innererror": {"errordetails": [{"code": echoed, "message": echoed}]},
            }
        },
    ):
        for status in (200, 400, 401, 403):
            answer = Answer(
                status=status, headers=JSON, body=orjson.dumps(document), json=document, request_id=None
            )
            told += [http.text_of(answer), str(http.error(answer, "GET /x", idempotent=True))]
            told += [str(refusal(http, answer, "/token"))]
            fault = fault_of(document, text=http.text_of(answer), clean=http.clean)
            told += [*fault.codes, fault.message]
    outcomes = to_outcomes(
        {"results": [{"status": "no", "code": echoed, "message": echoed}]},
        Results(),
        expected=1,
        clean=http.clean,
    )
    assert outcomes is not None
    told += [outcomes[0].code, outcomes[0].message]  # type: ignore[union-attr]
    asyncio.run(http.close())
    assert len(told) > 50
    for text in told:
        assert not any(SECRET[:length] in text for length in range(6, len(SECRET))), text
