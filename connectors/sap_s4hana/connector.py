"""Writes readings to SAP S/4HANA as measurement documents, lists and makes measuring points, raises and reads
maintenance notifications.

Measurement documents and measuring points are OData V4, notifications V2; one session carries all three.
Source: SAP's API reference of API_MEASUREMENTDOCUMENT 0001, API_MEASURINGPOINT 0001 and
API_MAINTNOTIFICATION.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import cast

from connectors.kit.inbound import clock_of, known
from connectors.kit.manifest import load_manifest
from connectors.kit.odata.envelope import fault_of
from connectors.kit.odata.query import entity_of, target
from connectors.kit.odata.service import Service
from connectors.kit.odata.values import Version
from connectors.kit.sap.access import open_client
from connectors.kit.sap.codes import RefusalVerdict, verdict
from connectors.kit.sap.documents import Fields, Form, documents_list
from connectors.kit.sap.exchange import Documents, Pointed
from connectors.kit.settings import parse
from connectors.sap_s4hana.mapping import (
    NOTIFICATION_SET,
    POINT_SET,
    REFERENCE_LENGTH,
    MeasuringPoint,
    StreamName,
    notification_body,
    notification_reference,
    to_meter,
)
from connectors.sap_s4hana.points import Points
from connectors.sap_s4hana.reader import S4Reader
from connectors.sap_s4hana.settings import S4hanaCredentials, S4hanaSettings
from gateway.model.connector import Capabilities, ConnectorSettings, ProbeResult, RemoteReading
from gateway.model.exchange import EventToRaise, RemoteMeter
from gateway.model.inbound import InboundPage, InboundStream
from gateway.model.outcome import Accepted, Duplicate, Outcome, Rejected, Retry
from gateway.model.reading import Batch, Reading

MANIFEST = load_manifest("connectors.sap_s4hana")
DOCUMENTS_PATH = "/sap/opu/odata4/sap/api_measurementdocument/srvd_a2x/sap/measurementdocument/0001"
POINTS_PATH = "/sap/opu/odata4/sap/api_measuringpoint/srvd_a2x/sap/measuringpoint/0001"
NOTIFICATIONS_PATH = "/sap/opu/odata/sap/API_MAINTNOTIFICATION"
_REFUSALS = (400, 404, 409, 422, 423)
_LOCKED_SECONDS = 30.0


class S4hanaConnector:
    """One system, one user or client."""

    def __init__(self, built_from: ConnectorSettings) -> None:
        """Raises BadConfiguration; opens nothing."""
        settings = self._settings = parse(S4hanaSettings, built_from.settings, what="settings")
        credentials = parse(S4hanaCredentials, built_from.credentials, what="credentials")
        self._http = open_client(settings, credentials, built_from)

        def service(path: str, version: Version, entity_set: str) -> Service:
            return Service(
                self._http, path=path, version=version, entity_set=entity_set, parameters=settings.parameters
            )

        form = Form(
            version=Version.V4,
            fields=Fields(),
            entity_set="MeasurementDocument",
            zone=settings.zone,
            reader=settings.reader,
        )
        documents = service(DOCUMENTS_PATH, Version.V4, form.entity_set)
        self._documents = Documents(
            documents, form, codes=settings.codes, skew=settings.skew, questions=settings.max_items
        )
        self._points = Points(service(POINTS_PATH, Version.V4, POINT_SET))
        self._notifications = service(NOTIFICATIONS_PATH, Version.V2, NOTIFICATION_SET)
        listed = documents_list(Version.V4, form.entity_set, form.fields, settings.zone)
        self._reader = S4Reader(
            documents=documents, listed=listed, notifications=self._notifications, points=self._points
        )
        self._inbound = settings.streams(MANIFEST.streams)
        makes_meters = settings.new_measuring_point is not None and settings.meters_by == "position"
        self._capabilities = replace(
            MANIFEST.capabilities,
            max_items=settings.max_items,
            future_skew=settings.skew,
            can_create_meter=makes_meters,
        )

    @property
    def capabilities(self) -> Capabilities:
        """The manifest's, narrowed by `max_items`, `future_skew_seconds` and `new_measuring_point`."""
        return self._capabilities

    @property
    def inbound(self) -> Sequence[InboundStream]:
        """The manifest's, with `documents_lookback_hours`."""
        return self._inbound

    async def probe(self) -> ProbeResult:
        """Reads one measurement document's number."""
        return await self._documents.probe()

    async def push(self, batch: Batch) -> Sequence[Outcome]:
        """One document for each reading, each in a changeset of its own."""
        points = await self._numbers(batch.readings)
        outcomes: dict[str, Outcome] = {}
        for reading in batch.readings:
            point = points[reading.meter]
            if isinstance(point, Rejected):
                outcomes[reading.key] = point
        pointed = _pointed(batch.readings, points)
        outcomes.update(
            (item[0].key, outcome)
            for item, outcome in zip(pointed, await self._documents.push(pointed), strict=True)
        )
        return [outcomes[reading.key] for reading in batch.readings]

    async def find(self, readings: Sequence[Reading]) -> Mapping[str, RemoteReading]:
        """What SAP holds of these points at these seconds, reversed documents left out."""
        return (
            await self._documents.find(_pointed(readings, await self._numbers(readings))) if readings else {}
        )

    async def meters(self) -> AsyncIterator[RemoteMeter]:
        """Active measuring points, as `meters_by` calls them; those without a position number have no name in
        a mapping by position.
        """
        by_position = self._settings.meters_by == "position"
        async for point in self._points.all():
            meter = to_meter(point, by_position=by_position)
            if meter.meter:
                yield meter

    async def ensure_meter(self, wanted: RemoteMeter) -> RemoteMeter | Rejected:
        """By position number: made where it is missing. By number: only found, since
        SAP assigns the numbers.
        """
        by_position = self._settings.meters_by == "position"
        point: MeasuringPoint | Rejected | None
        if by_position:
            point = await self._points.ensure(wanted, self._settings.new_measuring_point)
        else:
            point = await self._points.by_number(wanted.meter)
        if point is None:
            return Rejected(
                code="unknown_meter",
                message=(
                    f"SAP has no measuring point {wanted.meter[:40]!r}, and assigns the numbers of new ones"
                    " itself"
                ),
            )
        return point if isinstance(point, Rejected) else to_meter(point, by_position=by_position)

    async def remote_now(self, stream: str) -> datetime:
        """By the Date of the last answer."""
        known(self._inbound, stream, where="SAP S/4HANA")
        return await clock_of(self._http, self.probe)

    async def pull(
        self, stream: str, since: datetime | None, until: datetime, cursor: str | None = None
    ) -> InboundPage:
        """Notifications by the time of their last change, documents by that of their reading; measuring
        points whole, since SAP does not say when they changed.
        """
        known(self._inbound, stream, where="SAP S/4HANA")
        return await self._reader.pull(cast(StreamName, stream), since, until, cursor)

    async def pull_open(self, stream: str, cursor: str | None = None) -> InboundPage:
        """Notifications that nobody has completed."""
        known(self._inbound, stream, where="SAP S/4HANA")
        return await self._reader.pull_open(cursor)

    async def raise_event(self, event: EventToRaise) -> Outcome:
        """A maintenance notification for the measuring point's equipment or functional location."""
        if not event.reference.isprintable() or not 0 < len(event.reference) <= REFERENCE_LENGTH:
            return Rejected(
                code="too_long",
                message=f"the reference of a notification has 1 to {REFERENCE_LENGTH} characters",
            )
        service = self._notifications
        query = target(
            NOTIFICATION_SET, where=notification_reference(event.reference), select=[NOTIFICATION_SET], top=1
        )
        rows = service.rows(await service.get("find_event", query), NOTIFICATION_SET)
        if rows:
            return Duplicate(remote_id=_number(rows[0]))
        body = notification_body(
            event, self._settings.notification, await self._point_of(event.meter), self._settings.zone
        )
        answer = await service.create("raise_event", NOTIFICATION_SET, body, accept_statuses=_REFUSALS)
        if 200 <= answer.status < 300:
            return Accepted(remote_id=_number(entity_of(answer.json)))
        fault = fault_of(answer.json, text=self._http.text_of(answer), clean=self._http.clean)
        words = self._http.clean(fault.message)
        if verdict(answer.status, fault, self._settings.codes) is RefusalVerdict.LOCKED:
            return Retry(after_seconds=_LOCKED_SECONDS, message=words)
        return Rejected(code=fault.code, message=words)

    async def close(self) -> None:
        """Idempotent."""
        await self._http.close()

    async def _numbers(self, readings: Sequence[Reading]) -> Mapping[str, str | Rejected]:
        """The number of each reading's measuring point."""
        meters = {reading.meter for reading in readings}
        if self._settings.meters_by == "number":
            return {meter: meter for meter in meters}
        found = await self._points.by_position(meters)
        return {
            meter: point if isinstance(point, Rejected) else point.number for meter, point in found.items()
        }

    async def _point_of(self, meter: str) -> MeasuringPoint | None:
        """What an event's meter stands for; a notification without an object is better than none."""
        if not meter.isprintable() or not meter:
            return None
        if self._settings.meters_by == "number":
            return await self._points.by_number(meter)
        point = (await self._points.by_position([meter]))[meter]
        return None if isinstance(point, Rejected) else point


def build(built_from: ConnectorSettings) -> S4hanaConnector:
    """The registry's way to a connector. Raises BadConfiguration."""
    return S4hanaConnector(built_from)


def _pointed(readings: Sequence[Reading], points: Mapping[str, str | Rejected]) -> list[Pointed]:
    pairs = ((reading, points[reading.meter]) for reading in readings)
    return [(reading, point) for reading, point in pairs if isinstance(point, str)]


def _number(row: Mapping[str, object]) -> str | None:
    number = row.get(NOTIFICATION_SET)
    return number if isinstance(number, str) and number else None
