"""The AsyncAPI document: whole, valid, and one that what is really published can be checked against."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from gateway.events.cloudevent import cloud_event, topic
from gateway.events.documents import ReplicaStatus
from gateway.model.event import Event, EventType
from tests.fixtures.schemas import channels, document, validate

SCHEMAS = Path(__file__).parents[2] / "config" / "schemas"
NOW = datetime(2026, 5, 4, tzinfo=UTC)


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def follow(reference: str) -> Any:
    found: Any = document()
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return found


def test_every_reference_leads_somewhere() -> None:
    found = list(references(document()))
    assert len(found) > 50
    for reference in found:
        assert isinstance(follow(reference), dict), reference


def test_the_structure_is_that_of_asyncapi_3() -> None:
    assert document()["asyncapi"] == "3.0.0" and {"title", "version"} <= document()["info"].keys()
    for name, channel in document()["channels"].items():
        assert channel["address"].startswith("fieldgate/v1/") and channel["messages"], name
        assert set(re.findall(r"\{(\w+)\}", channel["address"])) == channel.get("parameters", {}).keys(), name
    for name, message in document()["components"]["messages"].items():
        assert message["summary"] and message["contentType"] and message["payload"], name
    used = set()
    for name, operation in document()["operations"].items():
        assert operation["action"] in ("send", "receive") and operation["bindings"]["mqtt"]["qos"] == 1, name
        channel = operation["channel"]["$ref"]
        used |= {channel, *([operation["reply"]["channel"]["$ref"]] if "reply" in operation else [])}
        assert all(message["$ref"].startswith(f"{channel}/messages/") for message in operation["messages"]), (
            name
        )
        if operation["action"] == "receive":
            reply = operation["reply"]
            assert reply["address"]["location"] == "$message.header#/responseTopic"
            assert all(
                message["$ref"].startswith(f"{reply['channel']['$ref']}/messages/")
                for message in reply["messages"]
            ), name
    assert used == {f"#/channels/{name}" for name in document()["channels"]}


@pytest.mark.parametrize("name", sorted(document()["components"]["schemas"]))
def test_every_schema_is_valid(name: str) -> None:
    Draft202012Validator.check_schema(document()["components"]["schemas"][name])


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.json")), ids=lambda path: path.name)
def test_every_schema_beside_the_configuration_is_valid(path: Path) -> None:
    Draft202012Validator.check_schema(orjson.loads(path.read_bytes()))


def test_every_topic_of_the_interface_has_one_channel() -> None:
    for below in (
        "gateway/status",
        "gateway/events/incident.opened",
        "replicas/one/status",
        "customers/acme/connections/acme-1/status",
        "customers/acme/connections/acme-1/issues/1",
        "customers/acme/events/connection.activated",
        "customers/acme/commands/status",
        "customers/acme/commands/sync",
        "customers/acme/commands/explain",
        "customers/acme/responses/a/b",
    ):
        assert len([name for pattern, name, _ in channels() if pattern.fullmatch(below)]) == 1, below


@pytest.mark.parametrize("kind", EventType)
@pytest.mark.parametrize("customer", ["acme", None])
def test_every_event_is_one_of_the_document(kind: EventType, customer: str | None) -> None:
    connection = None if customer is None else "acme-1"
    event = Event(
        position=1,
        event_id="e",
        type=kind,
        customer=customer,
        connection=connection,
        lane="x",
        at=NOW,
        data={"a": 1},
        request_id=None,
    )
    told = cloud_event(event, instance="plant").payload()
    assert validate(topic(event, root="fieldgate/v1"), told) == "CloudEvent"


def test_what_does_not_fit_is_found() -> None:
    online = ReplicaStatus(online=True, since=NOW).payload()
    assert validate("fieldgate/v1/replicas/one/status", online) == "ReplicaStatus"
    assert validate("fieldgate/v1/customers/acme/connections/c/status", b"") == "Removed"
    assert validate("fieldgate/v1/customers/acme/commands/status", b"") == "StatusRequest"
    for name, payload in (
        ("replicas/one/status", online.replace(b"online", b"onlime")),
        ("gateway/status", b"{}"),
        ("customers/acme/connections/c/status", b"{}"),
        ("customers/acme/commands/sync", b""),
        ("customers/acme/commands/explain", b'{"topic": "t"}'),
        ("customers/acme/commands/explain", b'{"topic": "t", "payload": "1", "payload_base64": "MQ=="}'),
        ("customers/acme/responses/r", b'{"request_id": "1"}'),
        ("customers/acme/secrets/r", b"{}"),
        ("replicas/one/two/status", online),
    ):
        with pytest.raises(AssertionError):
            validate(f"fieldgate/v1/{name}", payload)
