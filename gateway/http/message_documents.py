"""The bodies of what is said of messages: those of which nothing could be taken, told, tried again and
discarded, and the quotas that bound what a customer may send.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from gateway.http.documents import Document
from gateway.model.explanation import Explanation
from gateway.settings_base import Identifier, Section

NO_NUL = r"^[^\x00]*$"


class MessageDocument(Document):
    """A message of which nothing could be taken, with the reason. Equal ones are one, counted."""

    id: int
    customer: str | None = Field(description="Null: its topic is nobody's that is known.")
    source: str | None = Field(description="The topic template that takes it; null: none does.")
    topic: str
    reason: str
    detail: str
    occurrences: int
    first_at: datetime
    last_at: datetime
    size_bytes: int
    preview: str = Field(description="The first 512 bytes: as text with escapes, or in hexadecimal.")
    is_binary: bool = Field(description="The preview is hexadecimal.")


class MessageGroupDocument(Document):
    """Messages of one source and reason."""

    source: str | None
    reason: str
    messages: int
    occurrences: int
    last_at: datetime


class MessageSummary(Document):
    """How many there are."""

    items: tuple[MessageGroupDocument, ...]
    newest: int = Field(description="The greatest id that was counted: `up_to` of a replay or discard.")
    complete: bool = Field(description="False: there are more, and the newest 100,000 were counted.")


class MessageDetail(Document):
    """One message with its payload, and what would become of it now."""

    message: MessageDocument
    payload_base64: str
    is_whole: bool = Field(description="False: only the first bytes of the message were kept.")
    advice: str
    explanation: Explanation | None = Field(description="Null where only a part of it was kept.")


class MessageFilter(Section):
    """Which messages; what is left out narrows nothing. `source` "": of no source."""

    customer: Identifier | None = None
    source: str | None = Field(None, max_length=1024, pattern=NO_NUL)
    reason: str | None = Field(None, max_length=64, pattern=r"^[a-z0-9_]+$")
    topic: str | None = Field(None, min_length=1, max_length=1024, pattern=NO_NUL, description="Part of it.")
    up_to: int | None = Field(None, ge=1, le=2**53, description="None that came after this id.")


class MessagesReplay(MessageFilter):
    """Up to 500 are tried again, the oldest first; `next` of the answer goes on."""

    cursor: str | None = Field(None, max_length=512)


class MessagesDiscard(MessageFilter):
    """`expected`: how many they are, as a confirmation."""

    expected: int = Field(ge=0, le=2**53)


class FailedMessage(Document):
    """It stays, for this reason."""

    id: int
    reason: str
    detail: str


class MessagesReplayed(Document):
    """What became of them. What was taken is a dead letter no more; nothing that was taken before is taken
    twice.
    """

    replayed: int
    samples: int
    failed_count: int
    failed: tuple[FailedMessage, ...] = Field(description="The first 100.")
    next: str | None = Field(description="The `cursor` of the next request; null: none is left.")


class Discarded(Document):
    """They are gone for good."""

    discarded: int


class QuotaDocument(Document):
    """What a customer may send a second, averaged over a minute, and have. Null: no limit."""

    messages_per_second: float
    bytes_per_second: float
    devices: int
    metrics_per_device: int
    stored_bytes: int | None


class OverQuotaDocument(Document):
    """A time in which more came than a quota allows."""

    customer: str | None = Field(description="Null: messages that are nobody's.")
    quota: Literal["messages_per_second", "bytes_per_second", "devices", "metrics_per_device", "stored_bytes"]
    allowed: float
    device: str | None = Field(description="One of those that it is about, for `metrics_per_device`.")
    since: datetime
    last_at: datetime
    dead_letters: int = Field(description="Messages that were kept as dead letters since then.")
    dropped: int = Field(description="Messages for which there was no room among those.")
    dropped_bytes: int
    slowed_seconds: float = Field(
        description="How long reading stood, where the partition is the customer's own."
    )


class CustomerQuotas(Document):
    """A customer's quotas, what it has of them, and which it is over now."""

    customer: str
    quota: QuotaDocument
    devices: int
    stored_bytes: int = Field(description="About: counted as samples are written.")
    over: tuple[OverQuotaDocument, ...]
