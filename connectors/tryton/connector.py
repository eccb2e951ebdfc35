"""Writes readings to Tryton as quality inspections, lists and makes their points, pulls what changed, raises
alerts. HTTP only.

Before it creates, it asks what Tryton holds of these references: a repeat is recognised, a correction changes
the inspection while it is pending, and a point that comes later joins its inspection. Source: Tryton 8.2,
modules trytond and quality: REST API, models quality.control, quality.inspection and quality.alert.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from connectors.kit.authorization import authorization_for
from connectors.kit.bisect import BadMeters, BatchRefusal, push_bisecting, push_singly
from connectors.kit.http import HttpClient
from connectors.kit.inbound import clock_of, known, page_at
from connectors.kit.manifest import load_manifest
from connectors.kit.settings import parse
from connectors.tryton import records
from connectors.tryton.controls import Controls
from connectors.tryton.mapping import (
    HeldInspection,
    InspectionDraft,
    is_same,
    reference_of,
    resolve,
    split,
    to_drafts,
    to_held,
    to_record,
    to_remote,
    whole,
)
from connectors.tryton.rest import Rest
from connectors.tryton.settings import TrytonCredentials, TrytonSettings
from gateway.model.connector import Capabilities, ConnectorSettings, ProbeResult, RemoteReading
from gateway.model.errors import BadConfiguration, OutcomeUnknown, Unavailable
from gateway.model.exchange import EventToRaise, RemoteMeter
from gateway.model.inbound import InboundPage, InboundStream, KeyPage, check_page
from gateway.model.outcome import Accepted, Duplicate, Outcome, Rejected
from gateway.model.reading import Batch, Reading

MANIFEST = load_manifest("connectors.tryton")
INSPECTION, ALERT = "quality.inspection", "quality.alert"
_HELD_FIELDS = ("reference", "points", "state", "processed_at")
_REFERENCES = 1000  # in one question
_PAGE, _KEYS_PAGE = 500, 10_000
# Tryton goes on after the client has left, and commits: only after this long is what is not there not coming.
_SETTLED_SECONDS, _SETTLED_TIMES = 10.0, 3.0


class TrytonConnector:
    """One database, one key. A mapping's `meter` is `control/point`."""

    def __init__(self, built_from: ConnectorSettings) -> None:
        """Raises BadConfiguration; opens nothing."""
        settings = self._settings = parse(TrytonSettings, built_from.settings, what="settings")
        key = parse(TrytonCredentials, built_from.credentials, what="credentials").api_key.get_secret_value()
        headers = {"accept-language": "en"}
        self._http = HttpClient(
            settings.base_url,
            headers=headers,
            secrets=[key],
            timeout_seconds=built_from.timeout_seconds,
            observe=built_from.observe,
            reach=built_from.settings_reach,
        )
        self._http.authorize(
            authorization_for(
                built_from, conceal=self._http.conceal, api_key=lambda key: {"authorization": f"Bearer {key}"}
            )
        )
        self._rest = Rest(self._http, settings.database)
        self._controls = Controls(self._rest, company=settings.company)
        self._connection = built_from.connection
        self._capabilities = replace(
            MANIFEST.capabilities, max_items=settings.max_items, can_create_meter=settings.create_points
        )
        lookback = timedelta(seconds=settings.overlap_seconds)
        self._inbound = tuple(replace(stream, lookback=lookback) for stream in MANIFEST.streams)
        self._bad_meters = BadMeters()
        self._durations: deque[float] = deque(maxlen=20)
        self._settled_monotonic = 0.0

    @property
    def capabilities(self) -> Capabilities:
        """The manifest's, narrowed by `max_items` and `create_points`."""
        return self._capabilities

    @property
    def inbound(self) -> Sequence[InboundStream]:
        """The manifest's, with `overlap_seconds` as the lookback."""
        return self._inbound

    async def probe(self) -> ProbeResult:
        """Reads one inspection's id."""
        await self._rest.search("probe", INSPECTION, fields=["id"], limit=1)
        return ProbeResult(account=self._settings.database)

    async def push(self, batch: Batch) -> Sequence[Outcome]:
        """One question, and one request for what is new; an inspection that is there already is changed by a
        request of its own.
        """
        if not batch.readings:
            return []
        catalogue = await self._controls.catalogue({reading.meter for reading in batch.readings})
        now = _monotonic()
        outcomes: dict[str, Outcome] = {}
        for item in batch.readings:
            bad = self._bad_meters.get(item.meter, monotonic=now)
            if bad is not None:
                outcomes[item.key] = bad
        sendable = [reading for reading in batch.readings if reading.key not in outcomes]
        refused, drafts = to_drafts(self._connection, sendable, catalogue, company=self._settings.company)
        outcomes.update(refused)
        held = await self._held(drafts) if drafts else {}
        new: list[InspectionDraft] = []
        changes: list[tuple[InspectionDraft, HeldInspection]] = []
        for draft in drafts.values():
            inspections = held.get(draft.reference, [])
            delivered, rest = _delivered(draft, inspections)
            outcomes.update(delivered)
            if rest is not None and inspections and inspections[-1].is_pending:
                changes.append((rest, inspections[-1]))
            elif rest is not None:
                new.append(rest)
        outcomes.update(
            await self._change(changes)
        )  # first: what an error of the other hides is recognised the next time
        outcomes.update(await self._create(new))
        return [outcomes[reading.key] for reading in batch.readings]

    async def find(self, readings: Sequence[Reading]) -> Mapping[str, RemoteReading]:
        """What is in force of these. Unavailable while something is missing that a request without an answer
        may still bring.
        """
        held = await self._held({reference_of(self._connection, reading) for reading in readings})
        found: dict[str, RemoteReading] = {}
        for reading in readings:
            remote = to_remote(reading, held.get(reference_of(self._connection, reading), []))
            if remote is not None:
                found[reading.key] = remote
        left = self._settled_monotonic - _monotonic()
        if len(found) < len(readings) and left > 0:
            raise Unavailable("a request that got no answer may still be at work in Tryton", retry_after=left)
        return found

    async def meters(self) -> AsyncIterator[RemoteMeter]:
        """Every point of every control that the user may see. A point has no unit at Tryton."""
        async for point in self._controls.all():
            yield RemoteMeter(meter=point.meter, title=point.title)

    async def ensure_meter(self, wanted: RemoteMeter) -> RemoteMeter | Rejected:
        """The point `control/point`, made where `create_points` allows it; without tolerances."""
        if not self._settings.create_points:
            catalogue = await self._controls.catalogue([wanted.meter])
            found = catalogue.points.get(wanted.meter)
            if found is None:
                raise BadConfiguration(
                    f"Tryton has no point {wanted.meter[:80]!r}, and settings.create_points does not allow to"
                    " make it"
                )
            return RemoteMeter(meter=found.meter, title=found.title)
        point = await self._controls.ensure(wanted)
        return point if isinstance(point, Rejected) else RemoteMeter(meter=point.meter, title=point.title)

    async def remote_now(self, stream: str) -> datetime:
        """By the Date of the last answer."""
        known(self._inbound, stream, where="Tryton")
        return await clock_of(self._http, self.probe)

    async def pull(
        self, stream: str, since: datetime | None, until: datetime, cursor: str | None = None
    ) -> InboundPage:
        """By Tryton's time of the last change, which is that of its transaction's begin; ascending by id."""
        name = known(self._inbound, stream, where="Tryton").name
        domain = records.changed(records.STREAMS[name], since, until, after=cursor)
        return await self._page(name, domain, cursor)

    async def pull_open(self, stream: str, cursor: str | None = None) -> InboundPage:
        """Inspections that are pending, alerts that are not resolved."""
        name = known(self._inbound, stream, where="Tryton").name
        return await self._page(name, records.unfinished(records.STREAMS[name], after=cursor), cursor)

    async def keys(self, stream: str, cursor: str | None = None) -> KeyPage:
        """The ids."""
        name = known(self._inbound, stream, where="Tryton").name
        wanted = records.STREAMS[name]
        domain = records.held(wanted, after=cursor)
        with page_at(cursor):
            rows = await self._rest.search_long(
                "pull", wanted.model, fields=["id"], domain=domain, limit=_KEYS_PAGE
            )
        check_page(len(rows), name, page=_KEYS_PAGE)
        found = [str(row["id"]) for row in rows if isinstance(row.get("id"), int)]
        return KeyPage(keys=found, cursor=found[-1] if found and len(rows) >= _KEYS_PAGE else None)

    async def note_event(self, remote_id: str, text: str) -> None:
        """A further line of the alert's description. An alert that is gone needs none."""
        if (number := whole(remote_id)) is None:
            return
        rows = await self._rest.search(
            "note_event",
            ALERT,
            fields=["description"],
            domain=[["id", "=", number]],
            limit=1,
        )
        held = str(rows[0].get("description") or "") if rows else text
        if text not in held.split("\n\n"):
            await self._rest.change("note_event", ALERT, number, {"description": f"{held}\n\n{text}".strip()})

    async def raise_event(self, event: EventToRaise) -> Outcome:
        """An alert, on an inspection that bears the event's reference."""
        if not event.reference.isprintable() or not 0 < len(event.reference) <= records.REFERENCE_LENGTH:
            return Rejected(
                code="too_long",
                message=f"the reference of an event has 1 to {records.REFERENCE_LENGTH} characters",
            )
        known = await self._rest.search(
            "find_event",
            INSPECTION,
            fields=["alerts.id"],
            domain=[["reference", "=", event.reference]],
            limit=1,
        )
        if known:
            return Duplicate(remote_id=_alert(known[0]))
        found = resolve(
            event.meter, await self._controls.catalogue([event.meter]), company=self._settings.company
        )
        if isinstance(found, Rejected):
            return found
        try:
            made = await self._rest.create_one(
                "raise_event", INSPECTION, records.event_record(event, *found), fields=["alerts.id"]
            )
        except BatchRefusal as refusal:
            return Rejected(code=refusal.code, message=str(refusal))
        return Accepted(remote_id=_alert(made))

    async def close(self) -> None:
        """Idempotent."""
        await self._http.close()

    async def _page(self, name: str, domain: Sequence[object], cursor: str | None) -> InboundPage:
        wanted = records.STREAMS[name]
        with page_at(cursor):
            rows = await self._rest.search_long(
                "pull", wanted.model, fields=records.fields_of(wanted), domain=domain, limit=_PAGE
            )
        check_page(len(rows), name)
        references = await self._references(rows) if name == records.ALERTS else {}
        found = [records.to_record(name, row, references) for row in rows]
        return InboundPage(records=found, cursor=found[-1].key if found and len(rows) >= _PAGE else None)

    async def _references(self, alerts: Sequence[Mapping[str, object]]) -> Mapping[str, str]:
        """Of the inspections that these alerts began with, by id: an alert has no reference of its own."""
        wanted = sorted({number for row in alerts if (number := records.inspection_of(row)) is not None})
        if not wanted:
            return {}
        rows = await self._rest.search_long(
            "pull", INSPECTION, fields=["reference"], domain=[["id", "in", wanted]]
        )
        return {str(row.get("id")): str(row.get("reference") or "") for row in rows}

    async def _held(self, references: Iterable[str]) -> dict[str, list[HeldInspection]]:
        """What Tryton holds, ascending by id."""
        wanted = sorted(references)
        held: dict[str, list[HeldInspection]] = {}
        for begin in range(0, len(wanted), _REFERENCES):
            domain = [["reference", "in", wanted[begin : begin + _REFERENCES]]]
            for row in await self._rest.search_long("find", INSPECTION, fields=_HELD_FIELDS, domain=domain):
                if (inspection := to_held(row)) is not None:
                    held.setdefault(inspection.reference, []).append(inspection)
        return held

    async def _create(self, drafts: Sequence[InspectionDraft]) -> dict[str, Outcome]:
        """All in one request; where Tryton refuses it, the inspections at fault are found by bisection."""
        by_key = {draft.readings[0].key: draft for draft in drafts}

        async def send(part: Sequence[Reading]) -> Sequence[Outcome]:
            sent_monotonic = _monotonic()
            try:
                ids = await self._rest.create(
                    "push", INSPECTION, [to_record(by_key[reading.key]) for reading in part]
                )
            except (OutcomeUnknown, asyncio.CancelledError):
                now = _monotonic()
                self._settled_monotonic = now + max(
                    _SETTLED_SECONDS, _SETTLED_TIMES * max([now - sent_monotonic, *self._durations])
                )
                raise
            self._durations.append(_monotonic() - sent_monotonic)
            return [Accepted(remote_id=str(number)) for number in ids]

        # One reading stands for all of its inspection.
        outcomes, blamed = (
            await push_bisecting([draft.readings[0] for draft in drafts], send) if drafts else ([], {})
        )
        for meter, rejected in blamed.items():
            self._bad_meters.add(meter, rejected, monotonic=_monotonic())
        return {
            reading.key: outcome
            for draft, outcome in zip(drafts, outcomes, strict=True)
            for reading in draft.readings
        }

    async def _change(self, changes: Sequence[tuple[InspectionDraft, HeldInspection]]) -> dict[str, Outcome]:
        """One request for each inspection."""
        by_key = {draft.readings[0].key: (draft, inspection) for draft, inspection in changes}

        async def send(part: Sequence[Reading]) -> Sequence[Outcome]:
            draft, inspection = by_key[part[0].key]
            await self._rest.change(
                "push", INSPECTION, inspection.id, {"points": {**inspection.points, **draft.values}}
            )
            return [Accepted(remote_id=str(inspection.id))]

        outcomes = await push_singly([draft.readings[0] for draft, _ in changes], send)
        return {
            reading.key: outcome
            for (draft, _), outcome in zip(changes, outcomes, strict=True)
            for reading in draft.readings
        }


def build(built_from: ConnectorSettings) -> TrytonConnector:
    """The registry's way to a connector. Raises BadConfiguration."""
    return TrytonConnector(built_from)


def _delivered(
    draft: InspectionDraft, held: Sequence[HeldInspection]
) -> tuple[dict[str, Outcome], InspectionDraft | None]:
    """What of a draft Tryton holds already, and the rest of it."""
    outcomes: dict[str, Outcome] = {}
    rest = []
    for reading in draft.readings:
        remote = to_remote(reading, held)
        if remote is not None and is_same(reading.value, remote.value):
            outcomes[reading.key] = Duplicate(remote_id=remote.remote_id)
        else:
            rest.append(reading)
    if not rest:
        return outcomes, None
    names = {split(reading.meter)[1] for reading in rest}
    return outcomes, replace(
        draft,
        readings=tuple(rest),
        values={name: value for name, value in draft.values.items() if name in names},
    )


def _alert(row: object) -> str | None:
    """Its id: as such it is read back."""
    alerts = row.get("alerts") if isinstance(row, dict) else None
    first = alerts[0] if isinstance(alerts, list) and alerts else None
    number = first.get("id") if isinstance(first, dict) else None
    return str(number) if isinstance(number, int) else None


def _monotonic() -> float:
    return asyncio.get_running_loop().time()
