"""Writes readings to SAP ECC as measurement documents, through a Gateway service (OData V2) that the customer
provides.

Source: SAP Gateway Foundation, OData V2 services; function module MEASUREM_DOCUM_RFC_SINGLE_001 for the rules
of a document.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from connectors.kit.inbound import clock_of, key_of, known, page_at
from connectors.kit.manifest import load_manifest
from connectors.kit.odata.query import next_of, target
from connectors.kit.odata.service import Service
from connectors.kit.odata.values import Version
from connectors.kit.sap.access import open_client
from connectors.kit.sap.documents import Form, documents_list
from connectors.kit.sap.exchange import Documents
from connectors.kit.sap.reader import page_by_wall, page_of_unfinished
from connectors.kit.sap.records import PAGE, WallList, to_body
from connectors.kit.settings import parse
from connectors.sap_ecc.settings import EccCredentials, EccSettings, PointProperties
from gateway.model.connector import Capabilities, ConnectorSettings, ProbeResult, RemoteReading
from gateway.model.errors import BadConfiguration
from gateway.model.exchange import RemoteMeter
from gateway.model.inbound import InboundPage, InboundRecord, InboundStream, check_page
from gateway.model.outcome import Outcome
from gateway.model.reading import Batch, Reading

MANIFEST = load_manifest("connectors.sap_ecc")


class EccConnector:
    """One system, one client, one technical user. A mapping's `meter` is the number of a measuring point."""

    def __init__(self, built_from: ConnectorSettings) -> None:
        """Raises BadConfiguration; opens nothing."""
        settings = self._settings = parse(EccSettings, built_from.settings, what="settings")
        credentials = parse(EccCredentials, built_from.credentials, what="credentials")
        self._http = open_client(settings, credentials, built_from)
        self._service = Service(
            self._http,
            path=settings.service,
            version=Version.V2,
            entity_set=settings.entity_set,
            parameters=settings.parameters,
        )
        form = Form(
            version=Version.V2,
            fields=settings.fields,
            entity_set=settings.entity_set,
            zone=settings.zone,
            reader=settings.reader,
        )
        self._documents = Documents(
            self._service, form, codes=settings.codes, skew=settings.skew, questions=settings.max_items
        )
        self._lists = {
            "measurement_documents": documents_list(
                Version.V2, settings.entity_set, settings.fields, settings.zone
            )
        }
        if (names := settings.notifications) is not None:
            self._lists["notifications"] = WallList(
                version=Version.V2,
                entity_set=names.entity_set,
                number=names.number,
                date=names.date,
                time=names.time,
                zone=settings.zone,
                phase=names.phase,
                reference=names.reference,
            )
        available = {*self._lists, *(["measuring_points"] if settings.points is not None else [])}
        self._inbound = tuple(
            replace(stream, lists_open=stream.lists_open and names is not None and names.phase is not None)
            for stream in settings.streams(MANIFEST.streams)
            if stream.name in available
        )
        self._capabilities = replace(
            MANIFEST.capabilities, max_items=settings.max_items, future_skew=settings.skew
        )

    @property
    def capabilities(self) -> Capabilities:
        """The manifest's, narrowed by `max_items` and `future_skew_seconds`."""
        return self._capabilities

    async def probe(self) -> ProbeResult:
        """Reads one measurement document's number."""
        return await self._documents.probe()

    async def push(self, batch: Batch) -> Sequence[Outcome]:
        """One document for each reading, each in a changeset of its own."""
        return await self._documents.push([(reading, reading.meter) for reading in batch.readings])

    async def find(self, readings: Sequence[Reading]) -> Mapping[str, RemoteReading]:
        """What SAP holds of these points at these seconds, reversed documents left out where the service
        shows them.
        """
        return (
            await self._documents.find([(reading, reading.meter) for reading in readings]) if readings else {}
        )

    async def meters(self) -> AsyncIterator[RemoteMeter]:
        """The measuring points that the service lists; BadConfiguration where the settings name no set of
        them.
        """
        points = self._settings.points
        if points is None:
            raise BadConfiguration("settings.points does not say where the service lists measuring points")
        query = target(points.entity_set, select=[points.number, points.title, points.unit])
        async for row in self._service.list("list_meters", query, entity_set=points.entity_set):
            number, title, unit = (
                str(row.get(name) or "") for name in (points.number, points.title, points.unit)
            )
            if number:
                yield RemoteMeter(meter=number, title=title, unit=unit or None)

    @property
    def inbound(self) -> Sequence[InboundStream]:
        """The manifest's, those that the settings name a set for."""
        return self._inbound

    async def remote_now(self, stream: str) -> datetime:
        """By the Date of the last answer."""
        known(self._inbound, stream, where="SAP ECC")
        return await clock_of(self._http, self.probe)

    async def pull(
        self, stream: str, since: datetime | None, until: datetime, cursor: str | None = None
    ) -> InboundPage:
        """Notifications by the time of their last change, documents by that of their reading; measuring
        points whole.
        """
        name = known(self._inbound, stream, where="SAP ECC").name
        if name == "measuring_points":
            return await self._page_of_points(cursor)
        return await page_by_wall(self._service, self._lists[name], since, until, cursor)

    async def pull_open(self, stream: str, cursor: str | None = None) -> InboundPage:
        """Notifications that nobody has completed."""
        name = known(self._inbound, stream, where="SAP ECC").name
        return await page_of_unfinished(self._service, self._lists[name], cursor)

    async def close(self) -> None:
        """Idempotent."""
        await self._http.close()

    async def _page_of_points(self, cursor: str | None) -> InboundPage:
        points = self._settings.points or PointProperties()
        with page_at(cursor):
            answer = await self._service.get(
                "pull", cursor or target(points.entity_set, order=(points.number,)), page_size=PAGE
            )
        found = self._service.rows(answer, points.entity_set)
        check_page(len(found), points.entity_set)
        rows = [to_body(row) for row in found]
        return InboundPage(
            records=[
                InboundRecord(key=key_of([row.get(points.number)], row), modified_at=None, body=row)
                for row in rows
            ],
            cursor=next_of(answer.json, entity_set=points.entity_set),
        )


def build(built_from: ConnectorSettings) -> EccConnector:
    """The registry's way to a connector. Raises BadConfiguration."""
    return EccConnector(built_from)
