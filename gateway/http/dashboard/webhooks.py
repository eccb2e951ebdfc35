"""`/webhooks`: endpoints, what became of each delivery, and the buttons on them: a test event, one more time,
everything since a time, a new secret, off and on, gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from gateway import clock
from gateway.events.webhook_service import WebhookService
from gateway.http.auth import Serving, check_role
from gateway.http.dashboard.credential_form import sentence
from gateway.http.dashboard.forms import own_form
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.sessions import LoggedIn
from gateway.http.dashboard.sorting import sorting
from gateway.http.services import Services
from gateway.http.webhook_documents import NewWebhook
from gateway.model.access import Role
from gateway.model.errors import RequestRefused
from gateway.model.event import EventType
from gateway.settings_base import IDENTIFIER
from gateway.store.access import BrowserSession
from gateway.store.webhooks import Endpoint

router = APIRouter(include_in_schema=False)

MAX_SENT = 50
TITLES = {"url": "Endpoint", "customer": "Customer", "waiting": "Waiting"}
KEYS: Mapping[str, Callable[[Endpoint], Any]] = {
    "url": lambda hook: hook.url,
    "customer": lambda hook: hook.customer,
    "waiting": lambda hook: hook.pending,
}
MARK = "type."
"""A field for each type of event that is chosen; none: every type."""

BACK = {"1": "the last hour", "24": "the last day", "168": "the last week", "720": "the last 30 days"}
"""Hours."""

Hook = Annotated[str, Path(pattern=IDENTIFIER)]
Act = Callable[[WebhookService, str, str | None, Mapping[str, str]], Awaitable[object]]


@router.get("/webhooks")
async def webhooks_page(request: Request, serving: Serving, session: LoggedIn, removed: str = "") -> Response:
    """Reads only."""
    check_role(session.principal, Role.ADMIN)
    return await _list(request, serving, session, said="The webhook is removed." if removed else "")


@router.post("/webhooks")
async def create(request: Request, serving: Serving, session: LoggedIn) -> Response:
    """Shows the new secret, once."""
    given = await own_form(request, session, limit=len(EventType) + 20)
    check_role(session.principal, Role.ADMIN)
    bound = session.principal.customer
    customer = bound if bound is not None else given.get("customer", "").strip() or None
    types = [name.removeprefix(MARK) for name in given if name.startswith(MARK)]
    try:
        wanted = NewWebhook.model_validate(
            {"url": given.get("url", "").strip(), "events": types, "customer": customer}
        )
        made, secret = await serving.webhooks.create(wanted.url, customer=customer, types=wanted.events)
    except ValidationError:
        said = "Give an address that begins with https://, and a customer of the configuration."
        return await _list(request, serving, session, fault=said, typed=given)
    except RequestRefused as error:
        return await _list(request, serving, session, fault=sentence(str(error)), typed=given)
    return await _one(request, serving, session, made.id, secret=secret)


@router.get("/webhooks/{webhook}")
async def webhook_page(
    request: Request, serving: Serving, session: LoggedIn, webhook: Hook, done: str = ""
) -> Response:
    """Reads only."""
    check_role(session.principal, Role.ADMIN)
    return await _one(request, serving, session, webhook, said=_ACTS[done][1] if done in _ACTS else "")


@router.post("/webhooks/{webhook}/{act}")
async def act_on_webhook(
    request: Request, serving: Serving, session: LoggedIn, webhook: Hook, act: str
) -> Response:
    """Does it, and shows the webhook again."""
    given = await own_form(request, session)
    check_role(session.principal, Role.ADMIN)
    bound = session.principal.customer
    if act == "secret":
        secret = await serving.webhooks.rotate_secret(webhook, customer=bound)
        return await _one(request, serving, session, webhook, secret=secret)
    if act == "delete":
        await serving.webhooks.delete(webhook, customer=bound)
        return RedirectResponse("/webhooks?removed=1", status_code=303)
    if act not in _ACTS:
        raise RequestRefused("request.not_found", "There is no such button.")
    try:
        await _ACTS[act][0](serving.webhooks, webhook, bound, given)
    except RequestRefused as error:
        if error.code == "request.not_found" and act != "resend":
            raise
        return await _one(request, serving, session, webhook, refused=sentence(str(error)))
    return RedirectResponse(f"/webhooks/{webhook}?done={act}", status_code=303)


def _since(given: Mapping[str, str]) -> timedelta:
    if (hours := given.get("back", "")) not in BACK:
        raise RequestRefused("request.invalid", "Choose since when.")
    return timedelta(hours=int(hours), minutes=-1)  # a minute less than what is kept


_ACTS: Mapping[str, tuple[Act, str]] = {
    "test": (
        lambda hooks, name, bound, _: hooks.test(name, customer=bound),
        "A test event is on its way: its delivery is below.",
    ),
    "enable": (
        lambda hooks, name, bound, _: hooks.enable(name, customer=bound),
        "Enabled: what was kept for it is sent.",
    ),
    "disable": (
        lambda hooks, name, bound, _: hooks.disable(name, customer=bound),
        "Disabled: what happens meanwhile is kept.",
    ),
    "resend": (
        lambda hooks, name, bound, given: hooks.resend(name, given.get("event", ""), customer=bound),
        "The event is sent once more, with its old id.",
    ),
    "replay": (
        lambda hooks, name, bound, given: hooks.replay(
            name, customer=bound, since=clock.now() - _since(given)
        ),
        "The events of that time are sent again, with their old ids.",
    ),
}


async def _list(
    request: Request,
    serving: Services,
    session: BrowserSession,
    *,
    said: str = "",
    fault: str = "",
    typed: Mapping[str, str] | None = None,
) -> Response:
    sort = sorting(
        request.query_params.get("sort", ""),
        TITLES,
        lambda text: f"/webhooks?sort={text}",
        greatest_first=("waiting",),
    )
    return render(
        request,
        "webhooks.html",
        status=409 if fault else 200,
        session=session,
        sort=sort,
        rows=sort.sorted(await serving.webhooks.endpoints(customer=session.principal.customer), KEYS),
        customers=list(serving.customers())[:500],
        types=[str(type_) for type_ in EventType],
        said=said,
        fault=fault,
        typed=typed or {},
    )


async def _one(
    request: Request,
    serving: Services,
    session: BrowserSession,
    webhook: str,
    *,
    said: str = "",
    refused: str = "",
    secret: str = "",
) -> Response:
    bound = session.principal.customer
    held = await serving.webhooks.endpoints(customer=bound)
    found = next((one for one in held if one.id == webhook), None)
    if found is None:
        raise RequestRefused("request.not_found", "There is no such webhook.")
    return render(
        request,
        "webhook.html",
        status=409 if refused else 200,
        session=session,
        hook=found,
        sent=await serving.webhooks.sent(webhook, customer=bound, limit=MAX_SENT),
        said=said,
        refused=refused,
        secret=secret,
        back=BACK,
    )
