"""The AsyncAPI 3 document of everything that is published and taken on MQTT, made of the models that the
gateway itself uses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from gateway.events import command_documents as commands
from gateway.events.cloudevent import CONTENT_TYPE, CloudEvent
from gateway.events.commands import EXPIRY_SECONDS
from gateway.events.documents import (
    AlertDocument,
    DeviceStatus,
    GatewayStatus,
    IssueDocument,
    ReplicaStatus,
    StatusDocument,
)
from gateway.events.record_documents import RecordDocument
from gateway.events.record_publisher import EXPIRY_SECONDS as RECORD_EXPIRY_SECONDS
from gateway.events.relay import EXPIRY_SECONDS as EVENT_EXPIRY_SECONDS
from gateway.model.command import Verb
from gateway.model.event import EventType
from gateway.settings import BrokerSettings
from gateway.settings_base import IDENTIFIER

Json = dict[str, Any]  # AsyncAPI is JSON

JSON = "application/json"
REQUESTS: Mapping[Verb, tuple[type[BaseModel], type[BaseModel]]] = {
    Verb.STATUS: (commands.StatusRequest, commands.StatusAnswer),
    Verb.SYNC: (commands.SyncRequest, commands.SyncAnswer),
    Verb.EXPLAIN: (commands.ExplainRequest, commands.ExplainAnswer),
    Verb.RECORDS: (commands.RecordsRequest, commands.RecordsAnswer),
}

DESCRIPTION = (
    "Topics below `broker.topic_root` (`fieldgate/v1` by default). QoS 1 everywhere. Retained documents are"
    " published at every change, at every connection to the broker and every five minutes; an empty retained"
    " message means that there is nothing any more. Telemetry is taken at `telemetry.sources`; what was"
    " retained there before is taken only where it has a time of its own."
)
PARAMETERS = {
    "customer": "The customer's id, which is its user name at the broker.",
    "connection": "The connection's id.",
    "device": "The device's id.",
    "issue": "The issue's id.",
    "alert": "The alert's id, by which the system knows it too.",
    "replica": "The replica's name.",
    "stream": "The stream, which is one kind of record.",
    "key": "The record's key, percent-encoded but for letters, digits and `-._~`.",
    "type": "The event's type, without a prefix.",
    "reply": "Whatever the sender chose; it may have several levels.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTopic:
    """What the gateway publishes. `removed`: an empty retained message takes it away."""

    name: str
    address: str
    model: type[BaseModel]
    summary: str
    content_type: str = JSON
    retain: bool = True
    removed: bool = False
    expiry_seconds: int | None = None
    mode: JsonSchemaMode = "serialization"
    """`validation` where what has no value is left out."""


TOLD = (
    PublishedTopic(
        name="gatewayStatus",
        address="gateway/status",
        model=GatewayStatus,
        summary="The gateway as a whole; `lost` is its last will.",
    ),
    PublishedTopic(
        name="replicaStatus",
        address="replicas/{replica}/status",
        model=ReplicaStatus,
        summary="One replica; offline is its last will.",
        removed=True,
    ),
    PublishedTopic(
        name="connectionStatus",
        address="customers/{customer}/connections/{connection}/status",
        model=StatusDocument,
        summary="A connection as it is.",
        removed=True,
    ),
    PublishedTopic(
        name="issue",
        address="customers/{customer}/connections/{connection}/issues/{issue}",
        model=IssueDocument,
        summary="What needs a person, until it is solved.",
        removed=True,
    ),
    PublishedTopic(
        name="alert",
        address="customers/{customer}/connections/{connection}/alerts/{alert}",
        model=AlertDocument,
        summary="What telemetry became at the system, until it is over.",
        removed=True,
    ),
    PublishedTopic(
        name="deviceStatus",
        address="customers/{customer}/devices/{device}/status",
        model=DeviceStatus,
        summary="A device that is silent, until it sends again.",
        removed=True,
    ),
    PublishedTopic(
        name="record",
        address="customers/{customer}/connections/{connection}/records/{stream}/{key}",
        model=RecordDocument,
        summary=(
            "The last state of a record that the connected system holds. Retained, and then without an"
            " expiry, where `sync.publish_records` is `retained`: emptied when the record is deleted or the"
            " connection disconnected."
        ),
        retain=False,
        expiry_seconds=RECORD_EXPIRY_SECONDS,
    ),
    PublishedTopic(
        name="customerEvent",
        address="customers/{customer}/events/{type}",
        model=CloudEvent,
        summary="A CloudEvent of a customer's connection.",
        content_type=CONTENT_TYPE,
        retain=False,
        expiry_seconds=EVENT_EXPIRY_SECONDS,
        mode="validation",
    ),
    PublishedTopic(
        name="gatewayEvent",
        address="gateway/events/{type}",
        model=CloudEvent,
        summary="A CloudEvent that is no customer's.",
        content_type=CONTENT_TYPE,
        retain=False,
        expiry_seconds=EVENT_EXPIRY_SECONDS,
        mode="validation",
    ),
)


def document() -> Json:
    """The whole document."""
    channels: Json = {}
    operations: Json = {}
    messages: Json = {}
    for told in TOLD:
        _tell(told, channels, operations, messages)
    _command(channels, operations, messages)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Fieldgate",
            "version": version("fieldgate"),
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": JSON,
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": _schemas()},
    }


def schemas() -> Iterator[tuple[str, Json]]:
    """Name and JSON Schema of each request and answer, for those that want one at a time."""
    yield "command-error", commands.CommandError.model_json_schema(mode="serialization")
    for verb, (request, answer) in REQUESTS.items():
        yield f"command-{verb}-request", request.model_json_schema(mode="validation")
        yield f"command-{verb}-answer", answer.model_json_schema(mode="serialization")


def _tell(told: PublishedTopic, channels: Json, operations: Json, messages: Json) -> None:
    names = [told.model.__name__, *(["Removed"] if told.removed else [])]
    messages[told.model.__name__] = _message(told.model, told.summary, told.content_type)
    if told.removed:
        messages["Removed"] = {
            "summary": "Empty, retained: it is gone.",
            "contentType": "text/plain",
            "payload": {"type": "string", "maxLength": 0},
        }
    channels[told.name] = _channel(told.address, told.summary, names)
    binding: Json = {"qos": 1, "retain": told.retain, "bindingVersion": "0.2.0"}
    if told.expiry_seconds is not None:
        binding["messageExpiryInterval"] = told.expiry_seconds
    operations[f"tell{_upper(told.name)}"] = _operation("send", told.name, told.summary, names, binding)


def _command(channels: Json, operations: Json, messages: Json) -> None:
    """Requests by verb, and the one channel of their answers."""
    answers = [answer.__name__ for _, answer in REQUESTS.values()] + [commands.CommandError.__name__]
    answered: list[type[BaseModel]] = [*(answer for _, answer in REQUESTS.values()), commands.CommandError]
    for model in answered:
        messages[model.__name__] = {**_message(model, _summary_of(model), JSON), **_correlated(reply=False)}
    summary = "Answers to commands; the sender names the topic, below its own `responses/`."
    channels["responses"] = _channel("customers/{customer}/responses/{reply}", summary, answers)
    for verb, (request, answer) in REQUESTS.items():
        name = f"{verb}Command"
        messages[request.__name__] = {
            **_message(request, _summary_of(request), JSON),
            **_correlated(reply=True),
        }
        channels[name] = _channel(
            f"customers/{{customer}}/commands/{verb}", _summary_of(request), [request.__name__]
        )
        operation = _operation(
            "receive",
            name,
            _summary_of(request),
            [request.__name__],
            {"qos": 1, "retain": False, "bindingVersion": "0.2.0"},
        )
        reply = [answer.__name__, commands.CommandError.__name__]
        operation["reply"] = {
            "address": {"location": "$message.header#/responseTopic", "description": "MQTT 5 Response Topic"},
            "channel": {"$ref": "#/channels/responses"},
            "messages": [{"$ref": f"#/channels/responses/messages/{each}"} for each in reply],
        }
        operation["description"] = (
            f"Answered once, by one replica, not retained, with an expiry of {EXPIRY_SECONDS} s. A retained"
            " command is ignored."
        )
        operations[f"take{_upper(name)}"] = operation


def _correlated(*, reply: bool) -> Json:
    properties: Json = {
        "correlationData": {
            "type": "string",
            "description": "MQTT 5 Correlation Data: comes back as it was sent.",
        }
    }
    if reply:
        properties["responseTopic"] = {
            "type": "string",
            "description": "MQTT 5 Response Topic: `{root}/customers/{customer}/responses/...`, no wildcard.",
        }
    return {
        "headers": {"type": "object", "properties": properties},
        "correlationId": {"location": "$message.header#/correlationData"},
    }


def _message(model: type[BaseModel], summary: str, content_type: str) -> Json:
    return {
        "summary": summary,
        "contentType": content_type,
        "payload": {"$ref": f"#/components/schemas/{model.__name__}"},
    }


def _channel(address: str, summary: str, names: Sequence[str]) -> Json:
    root = BrokerSettings().topic_root
    found: Json = {
        "address": f"{root}/{address}",
        "summary": summary,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
    }
    parameters = {
        level[1:-1]: _parameter(level[1:-1]) for level in address.split("/") if level.startswith("{")
    }
    return {**found, "parameters": parameters} if parameters else found


def _parameter(name: str) -> Json:
    if name == "type":
        return {"description": PARAMETERS[name], "enum": [str(each) for each in EventType]}
    pattern = f" Matches `{IDENTIFIER}`." if name in ("customer", "connection", "replica") else ""
    return {"description": PARAMETERS[name] + pattern}


def _operation(
    action: Literal["send", "receive"], channel: str, summary: str, names: Sequence[str], binding: Json
) -> Json:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names],
        "bindings": {"mqtt": binding},
    }


def _schemas() -> Json:
    told: list[tuple[type[BaseModel], JsonSchemaMode]] = [(each.model, each.mode) for each in TOLD]
    for request, answer in REQUESTS.values():
        told += [(request, "validation"), (answer, "serialization")]
    told.append((commands.CommandError, "serialization"))
    _, found = models_json_schema(list(dict.fromkeys(told)), ref_template="#/components/schemas/{model}")
    definitions: Json = found["$defs"]
    return definitions


def _summary_of(model: type[BaseModel]) -> str:
    paragraph = " ".join((model.__doc__ or "").strip().split("\n\n")[0].split())
    sentence, dot, _ = paragraph.partition(". ")
    return sentence + dot.strip()


def _upper(name: str) -> str:
    return name[0].upper() + name[1:]
