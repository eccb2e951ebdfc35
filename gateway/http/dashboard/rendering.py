"""Turns templates into responses. Everything shown is escaped by Jinja2; what a template calls is here."""

from __future__ import annotations

import hashlib
from datetime import datetime
from functools import cache
from importlib.resources import files

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gateway import clock
from gateway.http.dashboard.markdown import inline, instructions
from gateway.model.connection import State

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


def duration(seconds: float) -> str:
    """About how long: `45 s`, `3 min`, `5 h`, `12 d`."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return "0 s" if seconds <= 0 else "< 1 s"


def ago(at: datetime | None) -> Markup:
    """How long ago, with the time itself at hand."""
    if at is None:
        return Markup("<span class='quiet'>never</span>")
    seconds = (clock.now() - at).total_seconds()
    text = (
        f"{duration(seconds)} ago" if seconds >= 1 else "now" if seconds > -1 else f"in {duration(-seconds)}"
    )
    return Markup('<time datetime="{}" title="{:%Y-%m-%d %H:%M:%S} UTC">{}</time>').format(
        at.isoformat(), at, text
    )


def moment(at: datetime | None) -> Markup:
    """The time itself."""
    return (
        Markup("<span class='quiet'>-</span>")
        if at is None
        else Markup('<time datetime="{}">{:%Y-%m-%d %H:%M} UTC</time>').format(at.isoformat(), at)
    )


def render(request: Request, template: str, *, status: int = 200, **values: object) -> Response:
    """The page. `session` None where nobody is logged in."""
    context = {"session": None, "request_id": request.state.request_id, "path": request.url.path, **values}
    return HTMLResponse(_environment().get_template(template).render(context), status_code=status)


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
        ago=ago,
        moment=moment,
        label=lambda state: LABELS[State(state)],
    )
    environment.globals.update(asset_path=asset_path)
    return environment
