"""Turns templates into responses. Everything shown is escaped by Jinja2; what a template calls is here."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gateway import clock
from gateway.configuration.schema import written
from gateway.http.dashboard.markdown import inline, instructions
from gateway.http.shared import Part
from gateway.model import bounds
from gateway.model.calendar import Calendar
from gateway.model.connection import State
from gateway.model.sample import Value, literal

LABELS = {
    State.PENDING: "Waiting for credentials",
    State.VERIFYING: "Verifying",
    State.ACTIVE: "Active",
    State.DEGRADED: "Degraded",
    State.REAUTHORIZATION_REQUIRED: "Reauthorization required",
    State.BLOCKED: "Blocked",
    State.PAUSED: "Paused",
    State.DISCONNECTING: "Disconnecting",
    State.DISCONNECTED: "Disconnected",
}
_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def window(window: timedelta | Calendar) -> str:
    """What a meter's samples are reduced over."""
    return f"a {window}" if isinstance(window, Calendar) else written(window)


def duration(seconds: float) -> str:
    """About how long: `45 s`, `3 min`, `5 h`, `12 d`."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return "0 s" if seconds <= 0 else "< 1 s"


def interval(seconds: float) -> str:
    """What is usual between two messages: `0.498 s`, `90 s`, `15 min`."""
    return f"{seconds:.3g} s" if seconds < 120 else duration(seconds)


def value(of: Value) -> str:
    """As devices send it: `true`, and a text without quotes."""
    return of if isinstance(of, str) else literal(of)


def ago(at: datetime | None) -> Markup:
    """How long ago, with the time itself at hand."""
    if at is None:
        return Markup("<span class='quiet'>never</span>")
    seconds = (clock.now() - at).total_seconds()
    text = "now"
    if seconds >= 1:
        text = f"{duration(seconds)} ago"
    elif seconds <= -1:
        text = f"in {duration(-seconds)}"
    return Markup('<time datetime="{}" title="{:%Y-%m-%d %H:%M:%S} UTC">{}</time>').format(
        at.isoformat(), at, text
    )


def lasting(at: datetime) -> Markup:
    """For how long it has been so, with the time itself at hand."""
    seconds = (clock.now() - at).total_seconds()
    text = f"for {duration(seconds)}" if seconds >= 1 else "since just now"
    return Markup('<time datetime="{}" title="since {:%Y-%m-%d %H:%M:%S} UTC">{}</time>').format(
        at.isoformat(), at, text
    )


def due(at: datetime | None) -> Markup:
    """When it is to be; what should have begun begins now."""
    if at is None:
        return Markup("<span class='quiet'>none is planned</span>")
    seconds = (at - clock.now()).total_seconds()
    text = f"in {duration(seconds)}" if seconds >= 1 else "due now"
    return Markup('<time datetime="{}" title="{:%Y-%m-%d %H:%M:%S} UTC">{}</time>').format(
        at.isoformat(), at, text
    )


def watermark(text: str) -> Markup:
    """How far a stream has come, as a person reads it: a time, or a place in the customer's log."""
    if (at := bounds.parsed_instant(text)) is not None:
        return Markup("up to {}").format(moment(at))
    if text.isascii() and text.isdecimal():
        said = "How many changes of the customer's samples were looked through"
        return Markup('<span title="{}">{} changes read</span>').format(said, f"{int(text):,}")
    return Markup("{}").format(text or "-")


def moment(at: datetime | None) -> Markup:
    """The time itself."""
    return (
        Markup("<span class='quiet'>-</span>")
        if at is None
        else Markup('<time datetime="{}">{:%Y-%m-%d %H:%M} UTC</time>').format(at.isoformat(), at)
    )


def render(request: Request, template: str, *, status: int = 200, **values: object) -> Response:
    """The page. `session` None where nobody is logged in."""
    context = {
        "session": getattr(request.state, "session", None),
        "now_at": clock.now(),
        "request_id": request.state.request_id,
        "path": request.scope["path"],  # the host of its address may be none
        **values,
    }
    return HTMLResponse(_environment().get_template(template).render(context), status_code=status)


def rendered(template: str, **values: object) -> str:
    """A part of a page, which knows nothing of whoever is logged in."""
    return _environment().get_template(template).render(values)


def is_refreshing(request: Request) -> bool:
    """Whether a page that is open asks for itself again."""
    return "fieldgate-live" in request.headers


def refreshed(request: Request, part: Part) -> Response:
    """The part alone, for a page that is open; 304 where it shows the same, and as of when that is so."""
    tag = f'"{part.tag}"'
    headers = {"ETag": tag, "Fieldgate-As-Of": part.at.isoformat()}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return HTMLResponse(rendered("_refreshed.html", part=part), headers=headers)


@cache
def asset(name: str) -> bytes:
    """A file of `static/`."""
    return files("gateway.http.dashboard").joinpath("static", name).read_bytes()


def asset_path(name: str) -> str:
    """Its address; another one when the file changes, so that it may be kept for long."""
    return f"/static/{name}?v={hashlib.sha256(asset(name)).hexdigest()[:12]}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("gateway.http.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        instructions=instructions,
        inline=inline,
        duration=duration,
        interval=interval,
        value=value,
        window=window,
        ago=ago,
        moment=moment,
        lasting=lasting,
        due=due,
        watermark=watermark,
        label=lambda state: LABELS[State(state)],
    )
    environment.globals.update(asset_path=asset_path)
    return environment
