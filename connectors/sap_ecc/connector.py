"""Writes readings to SAP ECC as measurement documents, through a Gateway service (OData V2) that the customer
provides.

Source: SAP Gateway Foundation, OData V2 services; function module MEASUREM_DOCUM_RFC_SINGLE_001 for the rules
of a document.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

from connectors.kit.manifest import load_manifest
from connectors.kit.odata.query import target
from connectors.kit.odata.service import Service
from connectors.kit.odata.values import Version
from connectors.kit.sap.access import open_client
from connectors.kit.sap.documents import Form
from connectors.kit.sap.exchange import Documents
from connectors.kit.settings import parse
from connectors.sap_ecc.settings import EccCredentials, EccSettings
from gateway.model.connector import Capabilities, ConnectorSettings, Health, RemoteReading
from gateway.model.errors import BadConfiguration
from gateway.model.exchange import RemoteMeter
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
        self._capabilities = replace(
            MANIFEST.capabilities, max_items=settings.max_items, future_skew=settings.skew
        )

    @property
    def capabilities(self) -> Capabilities:
        """The manifest's, narrowed by `max_items` and `future_skew_seconds`."""
        return self._capabilities

    async def probe(self) -> Health:
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

    async def close(self) -> None:
        """Idempotent."""
        await self._http.close()


def build(built_from: ConnectorSettings) -> EccConnector:
    """The registry's way to a connector. Raises BadConfiguration."""
    return EccConnector(built_from)
