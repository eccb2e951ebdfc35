"""What a browser's form sent, and whether it may have been ours that it sent."""

from __future__ import annotations

import hmac
from urllib.parse import parse_qsl, urlsplit

from fastapi import Request

from gateway.model.errors import RequestRefused
from gateway.store.access import BrowserSession

MAX_FIELDS = 50


async def fields(request: Request, *, limit: int = MAX_FIELDS) -> dict[str, str]:
    """The fields of a urlencoded form. Raises RequestRefused("request.invalid")."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/x-www-form-urlencoded":
        raise RequestRefused("request.invalid", "Expected a form.")
    try:
        pairs = parse_qsl(
            (await request.body()).decode(),
            keep_blank_values=True,
            max_num_fields=limit,
            errors="strict",
        )
    except ValueError as error:  # UnicodeDecodeError is one
        raise RequestRefused("request.invalid", "This form cannot be read.") from error
    if any("\0" in text for pair in pairs for text in pair):
        raise RequestRefused("request.invalid", "This form cannot be read.")
    return dict(pairs)


def check_origin(request: Request) -> None:
    """Raises RequestRefused("auth.forbidden") for a form on another site. Browsers say so themselves; other
    clients send no cookies unasked.
    """
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin", "null")  # `null` is what a page that hides its referrer sends
    if site not in ("same-origin", "none") or (
        origin != "null" and urlsplit(origin).netloc != request.headers.get("host")
    ):
        raise RequestRefused("auth.forbidden", "This form was sent from another site.")


async def own_form(request: Request, session: BrowserSession, *, limit: int = MAX_FIELDS) -> dict[str, str]:
    """The fields of a form that this session's page held. Raises RequestRefused("auth.forbidden")."""
    check_origin(request)
    given = await fields(request, limit=limit)
    if not hmac.compare_digest(given.pop("csrf", "").encode(), session.csrf.encode()):
        raise RequestRefused(
            "auth.forbidden", "This form is not one of this session: reload the page and try again."
        )
    return given
