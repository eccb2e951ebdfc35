"""The step of connecting a system that says which metric feeds which meter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fastapi import Response

from gateway import clock
from gateway.http.dashboard.connect_walk import Walk, page
from gateway.http.dashboard.credential_form import sentence
from gateway.http.dashboard.meter_form import (
    MAX_ROWS,
    checked,
    choices,
    given_rows,
    merged,
    meter_faults,
    meter_rows,
)
from gateway.http.dashboard.meter_preview import Previewed, preview
from gateway.model.errors import RequestRefused

MAX_SHOWN_METERS = 200
MARKED = "Please look at what is marked below."


async def meters_page(
    walk: Walk,
    *,
    previewed: Sequence[Previewed] | None = None,
    faults: Mapping[tuple[str, str], str] | None = None,
    said: str = "",
) -> Response:
    """The metrics of the customer's devices beside the meters of the system."""
    query = walk.request.query_params
    q, wanted = query.get("q", "")[:100].replace("\0", ""), query.get("meter", "")[:100].lower()
    listed = await walk.serving.devices.metrics(walk.draft.customer, text=q, limit=MAX_ROWS + 1)
    verified = walk.draft.verified
    meters = () if verified is None or verified.meters is None else verified.meters
    rows = meter_rows(
        listed[:MAX_ROWS],
        walk.draft.meters,
        meters,
        suggest=not walk.draft.meters and previewed is None,
        text=q,
    )
    if faults:
        rows = [replace(row, fault=faults.get((row.device, row.metric), "")) for row in rows]
    shown = [meter for meter in meters if wanted in f"{meter.meter} {meter.title} {meter.unit or ''}".lower()]
    return page(
        walk,
        "meters",
        status=409 if faults or said else 200,
        rows=rows,
        has_more=len(listed) > MAX_ROWS,
        q=q,
        meters=shown[:MAX_SHOWN_METERS],
        meter=wanted,
        all_meters=meters,
        lists_meters=verified is not None and verified.meters is not None,
        meters_detail="" if verified is None else verified.meters_detail,
        choices=choices(),
        previewed=previewed,
        said=said,
    )


async def take_meters(walk: Walk, given: Mapping[str, str]) -> Response:
    """Keeps what was chosen, shows what it would give, or says what is wrong. What could be no rule is not
    kept: nothing else of the walk could be read with it.
    """
    mapped = merged(walk.draft.meters, given_rows(given))
    made, faults = checked(mapped)
    draft = replace(walk.draft, meters=mapped)
    if faults:
        return await meters_page(replace(walk, draft=draft), faults=faults, said=MARKED)
    walk = await walk.keep(draft)
    try:
        await walk.serving.connecting.check(draft, walk.caller, credentials=False)
    except RequestRefused as error:
        faults = meter_faults(error, mapped)
        return await meters_page(walk, faults=faults, said=MARKED if faults else sentence(str(error)))
    if given.get("do") == "preview":
        found = await preview(walk.serving.devices, draft.customer, made, clock.now())
        return await meters_page(walk, previewed=found)
    return walk.to("confirm")
