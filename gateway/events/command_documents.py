"""What is asked and answered on MQTT's command topics, as Pydantic models: their JSON Schemas are what others
rely on.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from gateway.events.documents import PublishedDocument, StatusDocument
from gateway.events.record_documents import RecordDocument
from gateway.model.explanation import Explanation
from gateway.settings_base import Identifier


def _decoded(text: object) -> object:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else text
    except binascii.Error as error:
        raise ValueError("is not base64") from error


Base64 = Annotated[
    bytes, BeforeValidator(_decoded), WithJsonSchema({"type": "string", "contentEncoding": "base64"})
]


class Request(BaseModel):
    """Base of the requests: unknown keys are refused; an empty payload is an empty object."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class StatusRequest(Request):
    """`commands/status`: one connection, or all of the customer's."""

    connection: Identifier | None = None


class SyncRequest(Request):
    """`commands/sync`: what changed is looked for at once; `full` walks the stored history again and sends
    what the system does not hold.
    """

    connection: Identifier
    mode: Literal["incremental", "full"] = "incremental"


class ExplainRequest(Request):
    """`commands/explain`: what would become of a message of the customer's, which is not sent."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["payload"]}, {"required": ["payload_base64"]}]}
    )
    topic: str = Field(min_length=1, max_length=1024, description="As a device publishes to it.")
    payload: str | None = Field(None, description="As text.")
    payload_base64: Base64 | None = Field(None, description="Any bytes.")

    @model_validator(mode="after")
    def _one_payload(self) -> ExplainRequest:
        if (self.payload is None) == (self.payload_base64 is None):
            raise ValueError("give either payload or payload_base64")
        return self

    @property
    def message(self) -> bytes:
        """The payload's bytes."""
        return self.payload_base64 if self.payload_base64 is not None else (self.payload or "").encode()


class RecordsRequest(Request):
    """`commands/records`: the records that changed since `cursor`, as `GET /v1/records` gives them. The
    answer holds as many as fit.
    """

    connection: Identifier | None = None
    stream: str | None = Field(None, pattern=r"^[a-z][a-z0-9_]{0,63}$")
    modified_after: AwareDatetime | None = Field(None, description="By Fieldgate's own time of the change.")
    cursor: str | None = Field(None, max_length=512, description="`next` of an earlier answer.")
    limit: int = Field(100, ge=1, le=1000)


class CommandAnswer(PublishedDocument):
    """Base of the answers. `request_id` names the request in the gateway's log."""

    request_id: str


class StatusAnswer(CommandAnswer):
    """The status documents as they are at this moment."""

    connections: tuple[StatusDocument, ...]


class SyncAnswer(CommandAnswer):
    """The sync has been asked for; how it goes is in the connection's status."""

    connection: str
    mode: Literal["incremental", "full"]


class ExplainAnswer(CommandAnswer):
    """What would become of the message."""

    explanation: Explanation


class RecordsAnswer(CommandAnswer):
    """Go on from `next`, always: no record's last state is missed."""

    items: tuple[RecordDocument, ...]
    next: str
    has_more: bool


class CommandError(CommandAnswer):
    """The request could not be served. `code` is one of the HTTP interface's codes."""

    code: str = Field(
        examples=[
            "request.invalid",
            "request.not_found",
            "request.too_large",
            "connection.paused",
            "connection.reauthorization_required",
            "gateway.overloaded",
        ]
    )
    detail: str
    connection: str | None = None
    retry_after: float | None = Field(None, description="Seconds, where the same request may succeed later.")
