"""Messages that are dead letters: the list, one with its payload, another try, and letting go of them."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Query

from gateway.http import cursors
from gateway.http.api.paging import LIMIT, Cursor, Limit, page
from gateway.http.auth import Operator, Serving, Viewer, only_customer
from gateway.http.documents import Page
from gateway.http.message_documents import (
    NO_NUL,
    Discarded,
    FailedMessage,
    MessageDetail,
    MessageDocument,
    MessageFilter,
    MessageGroupDocument,
    MessagesDiscard,
    MessagesReplay,
    MessagesReplayed,
    MessageSummary,
)
from gateway.http.openapi import problems
from gateway.http.services import Services
from gateway.ingest.messages import ExplainedMessage
from gateway.ingest.replay import ReplayOutcome
from gateway.model.access import Principal
from gateway.model.errors import RequestRefused
from gateway.model.preview import preview
from gateway.settings_base import IDENTIFIER
from gateway.store.messages import HEAD_BYTES, LAST_ID, DeadMessageFilter, ListedDeadMessage

log = structlog.get_logger(__name__)

router = APIRouter(tags=["messages"])

REPLAYED_AT_ONCE = 500

Message = Annotated[int, Path(ge=1, le=2**53)]
Customer = Annotated[str | None, Query(pattern=IDENTIFIER, description="Of this customer only.")]
NONE = problems("request.not_found")


@router.get("/v1/messages", summary="Messages that are dead letters, the newest first")
async def list_messages(
    serving: Serving,
    asking: Viewer,
    customer: Customer = None,
    source: Annotated[
        str | None,
        Query(max_length=1024, pattern=NO_NUL, description="Of this topic template; empty: of none."),
    ] = None,
    reason: Annotated[str | None, Query(max_length=64, pattern=r"^[a-z0-9_]+$")] = None,
    topic: Annotated[
        str | None, Query(min_length=1, max_length=1024, pattern=NO_NUL, description="Part of the topic.")
    ] = None,
    limit: Limit = LIMIT,
    cursor: Cursor = None,
) -> Page[MessageDocument]:
    """Messages of devices of which nothing could be taken, with the reason and their first bytes."""
    wanted = DeadMessageFilter(
        customer=only_customer(asking, customer), source=source, reason=reason, topic=topic
    )
    rows = await serving.messages.page(wanted, before=cursors.number_cursor(cursor, LAST_ID), limit=limit + 1)
    return page(
        Page[MessageDocument],
        rows,
        limit,
        item=message_document,
        cursor=lambda row: cursors.write(row.id),
    )


@router.get("/v1/messages/summary", summary="Dead messages by source and reason")
async def count_messages(serving: Serving, asking: Viewer, customer: Customer = None) -> MessageSummary:
    """How many there are of each."""
    found = await serving.messages.counted(only_customer(asking, customer))
    return MessageSummary(
        items=tuple(MessageGroupDocument.model_validate(group) for group in found.groups),
        newest=found.newest,
        complete=found.complete,
    )


@router.get("/v1/messages/{message}", summary="One dead message with its payload", responses=NONE)
async def read_message(serving: Serving, asking: Viewer, message: Message) -> MessageDetail:
    """The payload, and what would become of the message now."""
    told = await find_message(serving, asking, message)
    return MessageDetail(
        message=message_document(told.message),
        payload_base64=base64.b64encode(told.message.head).decode(),
        is_whole=told.explanation is not None,
        advice=told.advice,
        explanation=told.explanation,
    )


@router.delete(
    "/v1/messages/{message}", status_code=204, summary="Let go of one dead message", responses=NONE
)
async def discard_message(serving: Serving, asking: Operator, message: Message) -> None:
    """For good."""
    await find_message(serving, asking, message)
    if await serving.messages.discard_one(message):
        log_discarded(asking, 1)


@router.post("/v1/messages/{message}/replay", summary="Try one dead message again", responses=NONE)
async def replay_message(serving: Serving, asking: Operator, message: Message) -> MessagesReplayed:
    """By the sources that are in force now. One that fails again stays, with its new reason."""
    await find_message(serving, asking, message)
    return _replayed(await serving.messages.replay_these([message], bound=asking.customer))


@router.post("/v1/messages/replay", summary="Try dead messages again")
async def replay_messages(serving: Serving, asking: Operator, wanted: MessagesReplay) -> MessagesReplayed:
    """The oldest first, up to 500: go on with `next`. A sample that was received later stays as it is."""
    after = cursors.number_cursor(wanted.cursor, 0)
    found = await serving.messages.replay(
        _wanted(asking, wanted), after=after, limit=REPLAYED_AT_ONCE, bound=asking.customer
    )
    return _replayed(found)


@router.post(
    "/v1/messages/discard", summary="Let go of dead messages", responses=problems("request.conflict")
)
async def discard_messages(serving: Serving, asking: Operator, wanted: MessagesDiscard) -> Discarded:
    """For good. `expected` confirms how many: where others came meanwhile nothing happens, unless `up_to`
    leaves them out.
    """
    await serving.messages.discard(_wanted(asking, wanted), expected=wanted.expected)
    log_discarded(asking, wanted.expected)
    return Discarded(discarded=wanted.expected)


async def find_message(serving: Services, asking: Principal, message: int) -> ExplainedMessage:
    """Raises RequestRefused("request.not_found"), also for one of another customer."""
    found = await serving.messages.one(message)
    if found is None or not asking.may_see(found.message.customer):
        raise RequestRefused("request.not_found", "There is no such message.")
    explained = None if found.explanation is None else found.explanation.customer
    return found if asking.may_see(explained) or explained is None else replace(found, explanation=None)


def message_document(row: ListedDeadMessage) -> MessageDocument:
    """A line of the list."""
    head = row.head[:HEAD_BYTES]
    shown = preview(head, is_cut=len(head) < row.size_bytes)
    return MessageDocument(
        preview=shown.text,
        is_binary=shown.is_binary,
        **{name: getattr(row, name) for name in MessageDocument.model_fields if hasattr(row, name)},
    )


def log_discarded(asking: Principal, count: int) -> None:
    """Who it was: nobody can find it out later."""
    log.info("http.messages_discarded", by=asking.name, customer=asking.customer, count=count)


def _wanted(asking: Principal, wanted: MessageFilter) -> DeadMessageFilter:
    return DeadMessageFilter(
        customer=only_customer(asking, wanted.customer),
        source=wanted.source,
        reason=wanted.reason,
        topic=wanted.topic,
        up_to=LAST_ID if wanted.up_to is None else wanted.up_to,
    )


def _replayed(found: ReplayOutcome) -> MessagesReplayed:
    return MessagesReplayed(
        replayed=found.replayed,
        samples=found.samples,
        failed_count=found.failed_count,
        failed=tuple(FailedMessage.model_validate(one) for one in found.failed),
        next=None if found.last is None else cursors.write(found.last),
    )
