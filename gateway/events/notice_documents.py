"""What tells of a change or asks for a person, as Pydantic models: issues, which are retained, and events, which are not."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.events.documents import Document
from gateway.model.connection import IssueCode


class IssueDocument(Document):
    """`customers/{customer}/connections/{connection}/issues/{issue}`: what needs a person, until it is solved."""

    id: str
    code: IssueCode
    severity: Literal["warning", "error"]
    since: datetime
    title: str
    instructions: str = Field(description="Written for the connection's system.")
    action_url: str
    request_id: str | None


class EventDocument(BaseModel):
    """A CloudEvent 1.0 in structured JSON; a subscriber ignores attributes that it does not know."""

    model_config = ConfigDict(frozen=True, extra="allow")
    specversion: Literal["1.0"]
    id: str = Field(min_length=1)
    source: str = Field(min_length=1)
    type: str = Field(min_length=1)
    time: datetime
    data: dict[str, object]
