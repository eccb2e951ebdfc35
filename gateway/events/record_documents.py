"""A record as it is told, over HTTP, MQTT and in answers to commands: one document everywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Literal

import orjson
from pydantic import Field

from gateway.events.documents import PublishedDocument
from gateway.model.record import topic_level
from gateway.store.records import RecordPage, StoredRecord


class RecordDocument(PublishedDocument):
    """The last state of something that a connected system holds."""

    customer: str
    connection: str
    stream: str
    key: str = Field(description="Identifies it within its stream for ever.")
    change: Literal["created", "modified", "deleted"] = Field(description="What the last change was.")
    version: int = Field(ge=1, description="One more with each change.")
    modified_at: datetime = Field(
        description="When the change was stored here; never before that of the change before it."
    )
    source_modified_at: datetime | None = Field(description="By the system's own clock, where it says.")
    truncated: bool = Field(
        description="The body was too large, or held what no JSON may, and is not all of it."
    )
    progress: Literal["open", "acknowledged", "closed"] | None = Field(
        description="Of what people open and close."
    )
    reference: str | None = Field(description="Of the alert of ours that it was raised from.")
    body: dict[str, object] = Field(description="As the system gave it; of a deleted record, as it was last.")


class RecordsPageDocument(PublishedDocument):
    """A part of the log of changes. Keep `next` and always go on from it: no record's
    last state is missed.
    """

    items: tuple[RecordDocument, ...]
    next: str = Field(description="The `cursor` to go on from, now or later.")
    has_more: bool = Field(description="Whether there is more at once.")


class VersionDocument(PublishedDocument):
    """One of the last changes of a record."""

    version: int
    at: datetime


class RecordWithVersions(RecordDocument):
    """A record, and when it changed: the last fifty times, the newest first."""

    versions: tuple[VersionDocument, ...]


def record_item(record: StoredRecord) -> dict[str, object]:
    """What orjson writes as a RecordDocument: the body goes through as it is stored."""
    return {
        "customer": record.customer,
        "connection": record.connection,
        "stream": record.stream,
        "key": record.key,
        "change": record.change,
        "version": record.version,
        "modified_at": record.modified_at,
        "source_modified_at": record.source_modified_at,
        "truncated": record.truncated,
        "progress": record.progress,
        "reference": record.reference,
        "body": orjson.Fragment(record.body),
    }


def record_payload(record: StoredRecord) -> bytes:
    """A RecordDocument."""
    return orjson.dumps(record_item(record), option=orjson.OPT_UTC_Z)


def page_payload(page: RecordPage) -> bytes:
    """A RecordsPageDocument."""
    items = [record_item(record) for record in page.records]
    return orjson.dumps(
        {"items": items, "next": page.next, "has_more": page.has_more},
        option=orjson.OPT_UTC_Z,
    )


_SPACES = re.compile(rb'("(?:[^"\\]|\\.)*")| ')
"""PostgreSQL writes one behind each comma and colon: of the largest body a third, with which it would fit
nowhere. Numbers stay as they are stored.
"""


def answer_payload(page: RecordPage, *, request_id: str, max_bytes: int) -> bytes:
    """A RecordsAnswer with as many of its records as take no more than this, and at least one. Each is
    written once: this is the loop that acknowledges telemetry.
    """
    size, items = 0, list[orjson.Fragment]()
    for before, record in zip((None, *page.records), page.records, strict=False):
        item = record_payload(record)
        if before is None and len(item) > max_bytes:
            item = _SPACES.sub(rb"\1", item)
        size += len(item) + 1
        if before is not None and size > max_bytes:
            page = replace(page, position=before.revision, has_more=True)
            break
        items.append(orjson.Fragment(item))
    return orjson.dumps(
        {"request_id": request_id, "items": items, "next": page.next, "has_more": page.has_more}
    )


def versions_payload(record: StoredRecord, changed_at: Sequence[datetime]) -> bytes:
    """A RecordWithVersions."""
    newest_first = [
        {"version": record.version - back, "at": at} for back, at in enumerate(reversed(changed_at))
    ]
    return orjson.dumps({**record_item(record), "versions": newest_first}, option=orjson.OPT_UTC_Z)


def record_topic(root: str, customer: str, connection: str, stream: str, key: str) -> str:
    """Where a record is told: its key is one level."""
    return f"{root}/customers/{customer}/connections/{connection}/records/{stream}/{topic_level(key)}"
