"""Delivers meter readings to MaintainX in bulk, within its limits. At least once: MaintainX knows no
idempotency key and shows only the last reading. Reads work orders, meters and assets back; raises work
orders, once.

Source: MaintainX public API reference, https://api.getmaintainx.com/v1/docs (meters, meter readings, work
orders, assets, rate limits, errors).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from urllib.parse import quote

from connectors.kit.answer import Answer
from connectors.kit.authorization import authorization_for
from connectors.kit.bisect import BadMeters, BatchRefusal, push_bisecting
from connectors.kit.classify import whole_number
from connectors.kit.http import HttpClient
from connectors.kit.inbound import clock_of, known
from connectors.kit.manifest import load_manifest
from connectors.kit.paging import ListPage, walk
from connectors.kit.rate_limit import limiter_for
from connectors.kit.settings import parse
from connectors.maintainx.mapping import (
    Meter,
    MeterCatalogue,
    meter_id,
    proven,
    resolve,
    to_catalogue,
    to_item,
    to_meter,
)
from connectors.maintainx.reader import REFUSALS, MaintainXReader
from connectors.maintainx.records import REFERENCE_LENGTH
from connectors.maintainx.settings import MaintainXCredentials, MaintainXSettings
from gateway.model.connector import Capabilities, ConnectorSettings, ProbeResult, RemoteReading
from gateway.model.errors import BadConfiguration, OutcomeUnknown, RateLimited, Unavailable
from gateway.model.exchange import EventToRaise, RemoteMeter
from gateway.model.inbound import InboundPage, InboundStream, KeyPage
from gateway.model.outcome import Accepted, Outcome, Rejected
from gateway.model.reading import Batch, Reading

MANIFEST = load_manifest("connectors.maintainx")
_PAGE_SIZE = 200  # the most that GET /meters gives
_CALLS, _SECONDS = 100, 60.0  # per user and for /meterreadings
_CATALOGUE_FRESH_SECONDS = 300.0
_CATALOGUE_MIN_SECONDS = 30.0  # an unknown name causes a new listing at most this often
_MAX_WAIT_SECONDS = 5.0


class MaintainXConnector:
    """One organisation, one API key."""

    def __init__(self, built_from: ConnectorSettings) -> None:
        """Raises BadConfiguration; opens nothing."""
        self._settings = parse(MaintainXSettings, built_from.settings, what="settings")
        key = parse(
            MaintainXCredentials, built_from.credentials, what="credentials"
        ).api_key.get_secret_value()
        headers = {}
        if self._settings.organization_id is not None:
            headers["x-organization-id"] = str(self._settings.organization_id)
        self._http = HttpClient(
            self._settings.base_url,
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
        self._limiter = limiter_for(self._settings.base_url, key, calls=_CALLS, seconds=_SECONDS)
        self._max_wait_seconds = min(_MAX_WAIT_SECONDS, built_from.timeout_seconds)
        self._capabilities = replace(MANIFEST.capabilities, max_items=self._settings.max_items)
        self._bad_meters = BadMeters()
        self._catalogue: tuple[float, MeterCatalogue] | None = None
        self._listing = asyncio.Lock()
        self._reader = MaintainXReader(self._call, self._said)

    @property
    def capabilities(self) -> Capabilities:
        """The manifest's, with `max_items` from the settings."""
        return self._capabilities

    async def probe(self) -> ProbeResult:
        """Lists one meter."""
        await self._list_page(None, limit=1, operation="probe")
        organization = self._settings.organization_id
        return ProbeResult(account=None if organization is None else str(organization))

    async def push(self, batch: Batch) -> Sequence[Outcome]:
        """One array, ascending per meter; a refusal of the whole is bisected. Accepted only after a 201 that
        lists every reading.
        """
        if not batch.readings:
            return []
        now = await self._system_time()
        catalogue = await self._catalogue_for(batch.readings)
        outcomes: dict[str, Outcome] = {}
        items: dict[str, dict[str, object]] = {}
        for reading in batch.readings:
            item = self._bad_meters.get(reading.meter, monotonic=_monotonic()) or to_item(
                reading, catalogue, system_time=now
            )
            if isinstance(item, Rejected):
                outcomes[reading.key] = item
            else:
                items[reading.key] = item
        sendable = [reading for reading in batch.readings if reading.key in items]
        if sendable:
            sent, blamed = await push_bisecting(
                sendable, lambda part: self._send([items[reading.key] for reading in part])
            )
            outcomes.update((reading.key, outcome) for reading, outcome in zip(sendable, sent, strict=True))
            for meter, refusal in blamed.items():
                self._bad_meters.add(meter, refusal, monotonic=_monotonic())
        return [outcomes[reading.key] for reading in batch.readings]

    async def find(self, readings: Sequence[Reading]) -> Mapping[str, RemoteReading]:
        """What the meters' last readings prove; a fresh listing each time."""
        return proven(readings, await self._list_meters()) if readings else {}

    async def meters(self) -> AsyncIterator[RemoteMeter]:
        """Every meter that the key may see, by its name, or by its id where the name leads to another or to
        none: several bear it, or it is taken for an id.
        """
        catalogue = await self._list_meters()
        for meter in catalogue.by_id.values():
            yield RemoteMeter(
                meter=meter.name if resolve(meter.name, catalogue) == meter.id else str(meter.id),
                title=meter.name,
                unit=meter.unit,
            )

    @property
    def inbound(self) -> Sequence[InboundStream]:
        """The manifest's."""
        return MANIFEST.streams

    async def remote_now(self, stream: str) -> datetime:
        """By the Date of the last answer."""
        known(MANIFEST.streams, stream, where="MaintainX")
        return await clock_of(self._http, lambda: self._list_page(None, limit=1, operation="probe"))

    async def pull(
        self, stream: str, since: datetime | None, until: datetime, cursor: str | None = None
    ) -> InboundPage:
        """Work orders from the newest change back; meters and assets whole."""
        return await self._reader.pull(
            known(MANIFEST.streams, stream, where="MaintainX").name, since, until, cursor
        )

    async def pull_open(self, stream: str, cursor: str | None = None) -> InboundPage:
        """Work orders that are open, in progress or on hold."""
        known(MANIFEST.streams, stream, where="MaintainX")
        return await self._reader.pull_open(cursor)

    async def keys(self, stream: str, cursor: str | None = None) -> KeyPage:
        """Of all work orders."""
        known(MANIFEST.streams, stream, where="MaintainX")
        return await self._reader.keys(cursor)

    async def raise_event(self, event: EventToRaise) -> Outcome:
        """A work order, for the asset that the event's meter belongs to."""
        if not 0 < len(event.reference) <= REFERENCE_LENGTH or not _is_word(event.reference):
            return Rejected(
                code="too_long",
                message=(
                    f"the reference of a work order has 1 to {REFERENCE_LENGTH} characters, and no blanks"
                ),
            )
        now = await clock_of(self._http, lambda: self._list_page(None, limit=1, operation="probe"))
        return await self._reader.raise_order(event, await self._asset_of(event.meter), now)

    async def note_event(self, remote_id: str, text: str) -> None:
        """A comment of the work order."""
        await self._reader.note(remote_id, text)

    async def close(self) -> None:
        """Idempotent."""
        await self._http.close()

    async def _asset_of(self, meter: str) -> int | None:
        """Where nobody knows the meter, the work order is about none: better than no work order."""
        async with self._listing:
            held = self._catalogue
            fresh = held is not None and _monotonic() - held[0] < _CATALOGUE_FRESH_SECONDS
            catalogue = held[1] if held is not None and fresh else await self._list_meters()
        number = resolve(meter, catalogue)
        found = None if isinstance(number, Rejected) else catalogue.by_id.get(number)
        return None if found is None else found.asset

    async def _send(self, items: Sequence[dict[str, object]]) -> Sequence[Outcome]:
        params = {"skipWebhook": "true"} if self._settings.skip_webhook else None
        answer = await self._call("push", "POST", "/meterreadings", json=items, params=params)
        if answer.status in REFUSALS:
            raise await self._refusal(answer, alone=len(items) == 1)
        if not isinstance(answer.json, list) or len(answer.json) != len(items):
            raise OutcomeUnknown(
                "MaintainX's answer does not list the readings that it was sent", request_id=answer.request_id
            )
        return [Accepted() for _ in items]

    async def _refusal(self, answer: Answer, *, alone: bool) -> BatchRefusal | BadConfiguration:
        """404 in JSON: some meter is unknown. Whether the service itself is what was not found, a listing
        tells, before a meter is blamed.
        """
        words = self._said(answer)
        if answer.json is None:
            return BadConfiguration(f"{words}; check settings.base_url", request_id=answer.request_id)
        if answer.status == 404 and alone:
            await self._list_page(None, limit=1, operation="probe")
        return BatchRefusal(
            words, code=str(answer.status), blames_meter=answer.status == 404, request_id=answer.request_id
        )

    def _said(self, answer: Answer) -> str:
        said = self._http.clean(_words(answer)) or self._http.text_of(answer)
        return f"MaintainX answered {answer.status}: {said}"

    async def _catalogue_for(self, readings: Sequence[Reading]) -> MeterCatalogue | None:
        """The meters, where a reading calls one by name; listed again when stale, or when a name is missing
        and the list is not brand-new.
        """
        names = {reading.meter for reading in readings if meter_id(reading.meter) is None}
        if not names:
            return None
        async with self._listing:
            if self._catalogue is not None:
                listed_at, catalogue = self._catalogue
                age = _monotonic() - listed_at
                complete = names <= catalogue.by_name.keys()
                if age < _CATALOGUE_MIN_SECONDS or (complete and age < _CATALOGUE_FRESH_SECONDS):
                    return catalogue
            return await self._list_meters()

    async def _list_meters(self) -> MeterCatalogue:
        catalogue = to_catalogue([meter async for meter in walk(self._list_page)])
        self._catalogue = (_monotonic(), catalogue)
        return catalogue

    async def _list_page(
        self, cursor: str | None, *, limit: int = _PAGE_SIZE, operation: str = "list_meters"
    ) -> ListPage[Meter]:
        # unasked, a meter shows neither its last reading nor its asset
        query = f"limit={limit}&expand=last_reading&expand=asset"
        if cursor is not None:
            query += f"&cursor={quote(cursor, safe='')}"
        answer = await self._call(operation, "GET", f"/meters?{query}")
        document = answer.json
        if not isinstance(document, dict) or not isinstance(document.get("meters"), list):
            raise Unavailable("MaintainX's list of meters has no `meters`", request_id=answer.request_id)
        following = document.get("nextCursor")
        meters = [meter for meter in map(to_meter, document["meters"]) if meter is not None]
        return ListPage(items=meters, cursor=following if isinstance(following, str) and following else None)

    async def _system_time(self) -> datetime | None:
        """MaintainX's own clock decides what is older than three days; the first call of a connector asks for
        it.
        """
        if self._http.system_time() is None:
            await self._list_page(None, limit=1, operation="probe")
        return self._http.system_time()

    async def _call(
        self,
        operation: str,
        method: str,
        path: str,
        *,
        json: object = None,
        params: Mapping[str, str | int] | None = None,
        idempotent: bool | None = None,
    ) -> Answer:
        await self._limiter.acquire(max_wait_seconds=self._max_wait_seconds)
        try:
            answer = await self._http.call(
                operation,
                method,
                path,
                json=json,
                params=params,
                idempotent=idempotent,
                accept_statuses=REFUSALS if method == "POST" else (),
            )
        except RateLimited as error:
            self._limiter.close_for(error.retry_after)
            raise
        remaining = whole_number(answer.headers.get("x-rate-limit-remaining", ""))
        reset = whole_number(answer.headers.get("x-rate-limit-reset", ""))
        if remaining is not None and reset is not None:
            self._limiter.remaining(remaining, reset_seconds=float(reset))
        return answer


def build(built_from: ConnectorSettings) -> MaintainXConnector:
    """The registry's way to a connector. Raises BadConfiguration."""
    return MaintainXConnector(built_from)


def _words(answer: Answer) -> str:
    """MaintainX's own words: `{"errors": [{"error", "fieldPath"}]}` or `{"error"}`."""
    document = answer.json
    if not isinstance(document, dict):
        return ""
    faults = document.get("errors")
    if isinstance(faults, list):
        told = []
        for fault in faults[:5]:
            if isinstance(fault, dict):
                parts = (fault.get("fieldPath"), fault.get("error"))
                told.append(" ".join(part for part in parts if isinstance(part, str)))
        return "; ".join(told)[:400]
    error = document.get("error")
    return error[:400] if isinstance(error, str) else ""


def _is_word(text: str) -> bool:
    return text.isprintable() and not any(letter.isspace() for letter in text)


def _monotonic() -> float:
    return asyncio.get_running_loop().time()
