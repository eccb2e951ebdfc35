"""The bodies of webhooks: endpoints that are told of events, and the secrets that requests to them are signed
with.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from gateway.http.documents import Document
from gateway.model.event import EventType
from gateway.settings_base import Identifier, Section


class NewWebhook(Section):
    """An endpoint to be told. `customer` null: of every customer (unbound tokens only)."""

    url: str = Field(
        min_length=1,
        max_length=2000,
        pattern=r"^https?://\S+$",
        examples=["https://hooks.example.com/fieldgate"],
    )
    events: tuple[EventType, ...] = Field((), description="Empty: every type.")
    customer: Identifier | None = None


class NewSecret(Document):
    """What the next requests are signed with."""

    secret: str = Field(examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])


class WebhookDocument(Document):
    """An endpoint. Its secret is shown once, when it is made."""

    id: str
    url: str
    events: tuple[str, ...]
    customer: str | None
    created_at: datetime
    pending: int = Field(0, description="Events that wait for it.")
    failing_since: datetime | None = None
    last_error: str | None = None
    disabled_at: datetime | None
    disabled_reason: str | None


class WebhookCreated(WebhookDocument):
    """With the secret that signatures are made with: keep it, it is not shown again."""

    secret: str = Field(examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
