"""Whatever a request holds, it is answered with a document of the published schemas: nothing of it can end
the daemon.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import aiomqtt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from gateway.events.commands import Commands
from gateway.ingest.explain import explain_for
from gateway.model.explanation import Explanation
from gateway.settings import Settings
from gateway.store import status as stored_status
from tests.fixtures.commanding import LINKS, NOW, ROOT
from tests.fixtures.schemas import validate

SETTINGS = Settings.model_validate({"security": {"encryption_keys": ["k"]}, "customers": ["acme"]})
REPLY = f"{ROOT}/customers/acme/responses/me"

words = st.sampled_from(["acme-1", "full", "MQ==", "acme/devices/pump-1/telemetry"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | words
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
bodies = st.dictionaries(
    st.sampled_from(["connection", "mode", "topic", "payload", "payload_base64", "x"]), values, max_size=4
)
payloads = st.binary(max_size=60) | bodies.map(lambda body: json.dumps(body).encode()) | st.just(b"[" * 3000)


def explain(customer: str, topic: str, payload: bytes) -> Explanation:
    return explain_for(
        customer,
        topic,
        payload,
        telemetry=SETTINGS.telemetry,
        customers=SETTINGS.customers,
        links=LINKS,
        now=NOW,
    )


async def synchronise(connection: str, *, full: bool, request_id: str) -> None:
    """Always well."""


async def owned(database: object, customer: str, connection: str | None = None) -> list[str]:
    return []


@pytest.fixture(autouse=True, scope="module")
def without_a_database() -> Any:
    patch = pytest.MonkeyPatch()
    patch.setattr(stored_status, "owned", owned)
    patch.setattr(stored_status, "read", lambda *_: asyncio.sleep(0, []))
    yield
    patch.undo()


def command(topic: str, payload: object, reply: str | None, retain: bool) -> aiomqtt.Message:
    properties = Properties(PacketTypes.PUBLISH)
    if reply is not None:
        properties.ResponseTopic = reply
    return aiomqtt.Message(topic, cast("Any", payload), 1, retain, 1, properties)


@given(st.sampled_from(["status", "sync", "explain", "other", ""]), payloads)
def test_every_request_has_an_answer_that_fits_the_schemas(verb: str, payload: bytes) -> None:
    asked = Commands(SETTINGS, cast("Any", None), replica="one", synchronise=synchronise, explain=explain)
    request = asked._admission.admit(
        command(f"{ROOT}/customers/acme/commands/{verb}", payload, REPLY, retain=False)
    )
    assert request is not None
    answer = asyncio.run(asked._answer(request))
    validate(REPLY, answer.payload())


@given(
    st.text(max_size=30),
    st.none() | st.text(max_size=30),
    st.booleans(),
    st.none() | st.binary(max_size=4) | st.text(max_size=4),
)
def test_nothing_of_a_message_is_an_error_of_ours(
    rest: str, reply: str | None, retain: bool, payload: object
) -> None:
    asked = Commands(SETTINGS, cast("Any", None), replica="one", synchronise=synchronise, explain=explain)
    try:
        message = command(f"{ROOT}/customers/{rest}", payload, reply, retain)
    except ValueError:
        return  # such a topic cannot be received
    found = asked._admission.admit(message)
    assert (
        found is None
        or found.reply is None
        or found.reply.startswith(f"{ROOT}/customers/{found.customer}/responses/")
    )
