"""Webhooks: endpoints that are told of events. Sending is `gateway.events`'."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response, status

from gateway import clock
from gateway.http.auth import Admin, Serving
from gateway.http.documents import Page, Replayed
from gateway.http.openapi import problems
from gateway.http.webhook_documents import NewSecret, NewWebhook, WebhookCreated, WebhookDocument
from gateway.model.errors import RequestRefused
from gateway.settings_base import IDENTIFIER
from gateway.store.webhooks import Endpoint

router = APIRouter(tags=["webhooks"])

Id = Annotated[str, Path(pattern=IDENTIFIER)]
KEPT = timedelta(days=30)


@router.get("/v1/webhooks", summary="Webhooks")
async def list_webhooks(serving: Serving, asking: Admin) -> Page[WebhookDocument]:
    """All in one page. A bound token sees its customer's."""
    found = await serving.webhooks.endpoints(customer=asking.customer)
    return Page[WebhookDocument](items=tuple(WebhookDocument(**_shown(one)) for one in found), next=None)


@router.post(
    "/v1/webhooks",
    summary="Add a webhook",
    status_code=status.HTTP_201_CREATED,
    responses=problems("request.conflict"),
)
async def create_webhook(serving: Serving, asking: Admin, wanted: NewWebhook) -> WebhookCreated:
    """The secret is in this answer and nowhere else."""
    if asking.customer is not None and wanted.customer is None:
        wanted = wanted.model_copy(update={"customer": asking.customer})
    if not asking.may_see(wanted.customer):
        raise RequestRefused(
            "auth.forbidden", "This token is bound to one customer and adds webhooks of that customer only."
        )
    made, secret = await serving.webhooks.create(wanted.url, customer=wanted.customer, types=wanted.events)
    return WebhookCreated(**_shown(made), secret=secret)


@router.delete(
    "/v1/webhooks/{webhook}",
    summary="Remove a webhook",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problems("request.not_found"),
)
async def delete_webhook(serving: Serving, asking: Admin, webhook: Id) -> Response:
    """It is told nothing any more; what waits for it is dropped."""
    await serving.webhooks.delete(webhook, customer=asking.customer)
    return Response(status_code=status.HTTP_204_NO_CONTENT)


@router.post("/v1/webhooks/{webhook}/replay", summary="Send again", responses=problems("request.not_found"))
async def replay_webhook(
    serving: Serving,
    asking: Admin,
    webhook: Id,
    since: Annotated[datetime, Query(alias="from", description="With a zone; at most 30 days ago.")],
) -> Replayed:
    """Every event since `from` is sent again, with its old id; a disabled endpoint is enabled."""
    if since.tzinfo is None:
        raise RequestRefused("request.invalid", "from: a time needs a zone, such as 2026-01-31T00:00:00Z.")
    if not clock.now() - KEPT <= since <= clock.now():
        raise RequestRefused("request.invalid", "from: events are kept for 30 days.")
    return Replayed(replayed=await serving.webhooks.replay(webhook, customer=asking.customer, since=since))


@router.post(
    "/v1/webhooks/{webhook}/secret",
    summary="Make a new secret",
    responses=problems("request.not_found", "request.conflict"),
)
async def rotate_webhook_secret(serving: Serving, asking: Admin, webhook: Id) -> NewSecret:
    """The secret is in this answer and nowhere else. For 24 hours requests are signed with the one before as
    well.
    """
    return NewSecret(secret=await serving.webhooks.rotate_secret(webhook, customer=asking.customer))


def _shown(endpoint: Endpoint) -> dict[str, Any]:
    return {**asdict(endpoint), "events": endpoint.types}
