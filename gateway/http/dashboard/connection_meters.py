"""Meters of a connection, edited: each metric with the meter that it feeds, suggestions by the system's own
meters, a preview of the last hour, and what a change would do. Of two who edit at once nobody overwrites the
other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from gateway import clock
from gateway.configuration.schema import meter_as_given
from gateway.connections.given import MetersOutdated, meters_digest
from gateway.http.auth import Serving, caller, check_role
from gateway.http.dashboard import meter_edit
from gateway.http.dashboard.connection import Shown
from gateway.http.dashboard.credential_form import sentence
from gateway.http.dashboard.forms import own_form
from gateway.http.dashboard.meter_edit import EditRow
from gateway.http.dashboard.meter_form import (
    BLANK,
    MAX_FIELDS,
    MAX_FREE,
    MAX_ROWS,
    checked,
    choices,
    is_free,
    meter_faults,
)
from gateway.http.dashboard.meter_preview import Previewed, preview
from gateway.http.dashboard.rendering import render
from gateway.http.dashboard.sessions import LoggedIn
from gateway.http.remote_meters import ListedMeters
from gateway.http.services import Services
from gateway.model.access import Role
from gateway.model.connection import ENDED
from gateway.model.errors import RequestRefused
from gateway.model.meter import MeterRule
from gateway.settings import ConnectionPatch
from gateway.store.access import BrowserSession
from gateway.store.views import AskedConnection, DescribedConnection

router = APIRouter(include_in_schema=False)

MAX_SHOWN = 200
"""Of the system's meters."""

TOO_OLD = (
    "Somebody else changed the meters since you opened this page: nothing was saved. The rows show what is"
    " configured now, with what you typed in its place; look at what is marked, then save again."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """What one request works on. `rules`: as a `PATCH` takes them."""

    request: Request
    serving: Services
    session: BrowserSession
    held: DescribedConnection
    rules: Sequence[Mapping[str, object]]
    q: str
    meter: str

    @property
    def digest(self) -> str:
        return meters_digest(self.held.meters)


@router.get("/connections/{connection}/meters")
async def meters_page(
    request: Request, serving: Serving, session: LoggedIn, target: Shown, saved: str = ""
) -> Response:
    """Changes nothing; asks the system for its meters, once a minute at most."""
    page = await _read(request, serving, session, target)
    return await _shown(page, await _rows(page), saved=bool(saved))


@router.post("/connections/{connection}/meters")
async def save_meters(request: Request, serving: Serving, session: LoggedIn, target: Shown) -> Response:
    """Saves what was touched, shows what it would do, or fills in the suggestions."""
    given = await own_form(request, session, limit=MAX_FIELDS)
    page = await _read(request, serving, session, target)
    sent = meter_edit.sent_rows(given)
    if given.get("seen") != page.digest:
        return await _conflict(page, sent)
    if given.get("do") == "suggest":
        rows = meter_edit.overlaid(await _rows(page), sent)
        return await _shown(page, [_suggested(row) for row in rows])
    wanted = meter_edit.changed(page.rules, sent)
    made, faults = checked(wanted)
    rows = meter_edit.overlaid(await _rows(page), sent)
    if faults:
        return await _shown(page, _faulty(rows, faults), said="Please look at what is marked below.")
    if given.get("do") == "preview":
        touched = {row.row.filled.meter for row in sent if row.is_touched}
        made.sort(key=lambda rule: rule.meter not in touched)
        found = await preview(serving.devices, target.customer, made, clock.now())
        return await _shown(page, rows, previewed=found, after=wanted)
    try:
        await serving.connections.change(
            target.connection,
            ConnectionPatch(meters=tuple(made)),
            caller(request, session.principal, kind="dashboard"),
            seen=page.digest,
        )
    except MetersOutdated:  # in this moment
        return await _conflict(await _read(request, serving, session, target), sent)
    except RequestRefused as error:
        wrong = meter_faults(error, wanted)
        said = "Please look at what is marked below." if wrong else sentence(str(error))
        return await _shown(page, _faulty(rows, wrong), said=said)
    query = {"saved": "1", "q": page.q, "meter": page.meter}
    told = urlencode({name: text for name, text in query.items() if text})
    return RedirectResponse(f"/connections/{target.connection}/meters?{told}", status_code=303)


async def _read(
    request: Request, serving: Services, session: BrowserSession, target: AskedConnection
) -> _Page:
    """Raises RequestRefused for a role that may not change meters, and for a connection that has ended."""
    check_role(session.principal, Role.ADMIN)
    if target.state in ENDED:
        raise RequestRefused(
            "connection.disconnected",
            "It is disconnected, which cannot be undone: it feeds no meter any more.",
        )
    described = await serving.reader.connections(connection_id=target.connection, limit=1)
    if not described:
        raise RequestRefused("request.not_found", "There is no such connection.")
    query = request.query_params
    return _Page(
        request=request,
        serving=serving,
        session=session,
        held=described[0],
        rules=[
            meter_as_given(rule)
            for rule in described[0].meters
            if {"device", "metric", "meter"} <= rule.keys()
        ],
        q=query.get("q", "")[:100].replace("\0", ""),
        meter=query.get("meter", "")[:100].replace("\0", "").lower(),
    )


async def _listed(page: _Page) -> ListedMeters:
    """An open page that looks again by itself asks the system for nothing."""
    if page.request.headers.get("fieldgate-live"):
        return page.serving.remote_meters.kept(page.held.connection)
    return await page.serving.remote_meters.of(page.held.connection, page.serving.connections.meters)


async def _rows(page: _Page) -> list[EditRow]:
    """All that fit the search."""
    metrics = await page.serving.devices.metrics(page.held.customer, text=page.q, limit=MAX_ROWS + 1)
    patterns = [
        (MeterRule(device=str(rule["device"]), metric=str(rule["metric"]), meter=""), str(rule["meter"]))
        for rule in page.rules
        if is_free(rule)
    ]
    fed = {
        (device, metric.name): [
            meter.replace("{device}", device).replace("{metric}", metric.name)
            for pattern, meter in patterns
            if pattern.feeds_from(device, metric.name)
        ]
        for device, _, metric in metrics
    }
    meters = (await _listed(page)).meters or ()
    return meter_edit.edit_rows(metrics, page.rules, text=page.q, fed=fed, meters=meters)


async def _conflict(page: _Page, sent: Sequence[EditRow]) -> Response:
    return await _shown(page, meter_edit.overlaid(await _rows(page), sent, is_outdated=True), said=TOO_OLD)


async def _shown(
    page: _Page,
    rows: Sequence[EditRow],
    *,
    previewed: Sequence[Previewed] | None = None,
    after: Sequence[Mapping[str, object]] = (),
    said: str = "",
    saved: bool = False,
) -> Response:
    held, listed = page.held, await _listed(page)
    system = page.serving.catalogue.get(held.system)
    search = {name: text for name, text in (("q", page.q), ("meter", page.meter)) if text}
    fits = [
        one
        for one in listed.meters or ()
        if page.meter in f"{one.meter} {one.title} {one.unit or ''}".lower()
    ]
    bound = [row for row in rows if not row.row.is_free]
    free = [row for row in rows if row.row.is_free]
    return render(
        page.request,
        "connection_meters.html",
        status=409 if said else 200,
        session=page.session,
        held=held,
        title=held.system if system is None else system.manifest.title,
        said=said,
        saved=saved,
        seen=page.digest,
        rows=[*bound[:MAX_ROWS], *free[-MAX_FREE - BLANK :]],
        has_more=len(bound) > MAX_ROWS or len(free) > MAX_FREE + BLANK,
        has_suggestions=any(row.suggestion is not None for row in bound[:MAX_ROWS]),
        rule_count=len(page.rules),
        q=page.q,
        meter=page.meter,
        search=f"?{urlencode(search)}" if search else "",
        listed=listed,
        fits=fits[:MAX_SHOWN],
        choices=choices(),
        previewed=previewed,
        differences=None if previewed is None else meter_edit.differences(page.rules, after),
    )


def _suggested(row: EditRow) -> EditRow:
    if row.suggestion is None or row.row.filled.meter:
        return row
    filled = replace(row.row.filled, meter=row.suggestion.meter, unit=row.suggestion.unit or "")
    return replace(row, row=replace(row.row, filled=filled, is_suggested=True))


def _faulty(rows: Sequence[EditRow], faults: Mapping[tuple[str, str], str]) -> list[EditRow]:
    return [
        replace(row, row=replace(row.row, fault=faults.get((row.row.device, row.row.metric), row.row.fault)))
        for row in rows
    ]
