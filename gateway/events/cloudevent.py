"""The envelope in which every event leaves: CloudEvents 1.0, structured JSON, the same bytes on MQTT and for
webhooks.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from gateway.events.documents import PublishedDocument
from gateway.model.event import Event

CONTENT_TYPE = "application/cloudevents+json"
TYPE_PREFIX = "fieldgate."


class EventData(BaseModel):
    """What the event tells. The other keys depend on its type."""

    model_config = ConfigDict(frozen=True, extra="allow")

    customer: str | None = Field(description="Whom it is about; null: the gateway as a whole.")
    connection: str | None
    request_id: str | None = Field(description="Of the call that it comes from.")


class CloudEvent(PublishedDocument):
    """An event. Attributes of the envelope that have no value are left out."""

    specversion: Literal["1.0"] = "1.0"
    id: str = Field(description="Unique; the same in every delivery of the event.")
    source: str = Field(description="`fieldgate/` and the gateway's instance.")
    type: str = Field(
        description="`fieldgate.` and the event type.", pattern=r"^fieldgate\.[a-z_]+\.[a-z_]+$"
    )
    subject: str | None = Field(None, description="The connection, where it concerns one.")
    time: datetime
    datacontenttype: Literal["application/json"] = "application/json"
    data: EventData

    def payload(self) -> bytes:
        """JSON in UTF-8; equal for equal events."""
        written = self.model_dump(mode="json")
        return orjson.dumps({name: value for name, value in written.items() if value is not None})


def cloud_event(event: Event, *, instance: str) -> CloudEvent:
    """The envelope of a stored event. What the event's row knows of customer, connection and request prevails
    over its data.
    """
    row = {"customer": event.customer, "connection": event.connection, "request_id": event.request_id}
    known = {name: value for name, value in row.items() if value is not None}
    return CloudEvent(
        id=event.event_id,
        source=f"fieldgate/{instance}",
        type=TYPE_PREFIX + event.type,
        subject=event.connection,
        time=event.at,
        data=EventData.model_validate({**row, **event.data, **known}),
    )


def topic(event: Event, *, root: str) -> str:
    """Where MQTT carries it: by the bare type, under its customer or under the gateway."""
    place = "gateway" if event.customer is None else f"customers/{event.customer}"
    return f"{root}/{place}/events/{event.type}"
