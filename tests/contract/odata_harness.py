"""The contract suite's harness of the OData connector: odatapy with a set of readings for what works, a raw
server for what does not.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from odatapy.data import Entity, ValueType
from odatapy.edm.xml_io import XmlEdmProvider
from odatapy.errors import ODataApplicationException
from odatapy.server import OData
from odatapy.server.adapters.asgi import ODataASGIApp
from odatapy.server.inmemory import InMemoryDataStore, InMemoryProcessor

from benchmarks.servers import free_port
from connectors.odata.connector import ODataConnector
from gateway.model.connector import Connector, ConnectorSettings, unobserved
from gateway.model.reading import Reading
from gateway.model.sample import Value
from tests.contract.faults import FaultServer, answer
from tests.contract.harness import CONNECTION, Calls, http_reply, reading
from tests.contract.sap_rules import App, Message, Receive, Send
from tests.contract.sap_servers import HERE, serving

SERVICE = "/v2.0/tenant/production/api/acme/iot/v1.0/companies(1)"
KEY = "an-api-key-of-the-suite"


class _Processor(InMemoryProcessor):
    """Assigns ids and times, knows its meters, refuses a second reading with one external id. Undoes what a
    failed changeset inserted.
    """

    def __init__(self, page_size: int) -> None:
        super().__init__(InMemoryDataStore(), page_size=page_size)
        self.ids = itertools.count(1)
        self.seen: dict[str, str] = {}
        self.modified = datetime(2026, 11, 1, tzinfo=UTC)

    def _assign_keys(self, entity_set: Any, entity: Any) -> None:
        key, meter = entity.get_value("externalId"), entity.get_value("meter")
        if meter == "999999":
            raise ODataApplicationException(
                f"The meter {meter} does not exist.", 400, code="Internal_RecordNotFound"
            )
        if meter.startswith("status-"):
            raise ODataApplicationException("Not now.", int(meter.removeprefix("status-")), code="Busy")
        if key is not None and key in self.seen:
            raise ODataApplicationException(
                f"The record with the external id {key} already exists.",
                400,
                code="Internal_EntityWithSameKeyExists",
            )
        number = f"id-{next(self.ids)}"
        self.seen[key] = number
        self.modified += timedelta(seconds=1)
        entity.set_property("systemId", number, ValueType.PRIMITIVE, "Edm.String")
        entity.set_property("lastModifiedDateTime", self.modified, ValueType.PRIMITIVE, "Edm.DateTimeOffset")

    def _check_duplicate(self, entity_set: Any, entity: Any) -> None:
        """The ids are ours."""

    def begin(self) -> int:
        self.store._lock.acquire()
        return len(self.store.data.get("meterReadings", []))

    def commit(self, token: int) -> None:
        self.store._lock.release()

    def rollback(self, token: int) -> None:
        rows = self.store.data.get("meterReadings", [])
        for entity in rows[token:]:
            self.seen.pop(entity.get_value("externalId"), None)
        del rows[token:]
        self.store._lock.release()


class ODataHarness:
    """A service that refuses a second reading with one key. `token`, when set, is the bearer token that is
    asked for in place of the key.
    """

    system = "odata"
    exempt: Mapping[str, str] = {
        "change_is_accepted": "the service keeps one reading for each key, and the connector changes none"
    }
    settings: ClassVar[Mapping[str, object]] = {
        "service": SERVICE,
        "entity_set": "meterReadings",
        "properties": {"id": "systemId", "unit": "unit"},
        "constants": {"source": "fieldgate"},
        "unique_key": True,
        "max_text": 50,
        "meters": {"meter": "number", "title": "description", "unit": "unit"},
        "streams": {"readings": {"entity_set": "meterReadings", "key": "systemId"}},
    }
    page_size: ClassVar[int] = 1000

    @asynccontextmanager
    async def running(self, dsn: str) -> AsyncIterator[None]:
        odata = OData.new_instance(strict_deserialization=True)
        metadata = odata.create_service_metadata(
            XmlEdmProvider.from_file(str(HERE / "edmx" / "device_readings.v4.edmx")), service_version="4.0"
        )
        handler = odata.create_handler(metadata)
        self.processor = _Processor(self.page_size)
        handler.register(self.processor)
        self.token: str | None = None
        self.requests: list[str] = []
        async with serving(self._guarded(ODataASGIApp(handler, SERVICE))) as self.url:
            yield

    def _guarded(self, app: App) -> App:
        async def guarded(scope: Message, receive: Receive, send: Send) -> None:
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            self.requests.append(f"{scope['method']} {scope['path']}")
            good = (
                headers.get("x-api-key") == KEY
                if self.token is None
                else headers.get("authorization") == f"Bearer {self.token}"
            )
            if good:
                await app(scope, receive, send)
                return
            body = json.dumps(
                {
                    "error": {
                        "code": "Authentication_InvalidCredentials",
                        "message": "The credential is not good.",
                    }
                }
            ).encode()
            head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 401, "headers": head})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

        return guarded

    def add_meter(self, number: str, description: str, unit: str) -> None:
        entity = Entity(type="example.iot.meter")
        for name, value in (("number", number), ("description", description), ("unit", unit)):
            entity.set_property(name, value, ValueType.PRIMITIVE, "Edm.String")
        self.processor.store.insert_entity("meters", entity)

    def connector(
        self,
        *,
        timeout_seconds: float = 5.0,
        calls: Calls | None = None,
        url: str | None = None,
        token: Any = None,
        credentials: Mapping[str, str] | None = None,
        **settings: object,
    ) -> ODataConnector:
        return ODataConnector(
            ConnectorSettings(
                connection=CONNECTION,
                hosting="cloud",
                settings={"base_url": url or self.url, **self.settings, **settings},
                credentials={"api_key": KEY} if credentials is None else credentials,
                timeout_seconds=timeout_seconds,
                observe=calls or unobserved,
                token=token,
            )
        )

    def meter(self, number: int) -> str:
        return f"meter-{number}"

    def refused(self, at: datetime) -> Reading:
        return reading("999999", at, 1.0)

    async def held(self) -> dict[tuple[str, datetime], list[Value]]:
        held: dict[tuple[str, datetime], list[Value]] = {}
        for entity in self.processor.store.data.get("meterReadings", []):
            held.setdefault((entity.get_value("meter"), entity.get_value("readingDateTime")), []).append(
                entity.get_value("value")
            )
        return held

    @asynccontextmanager
    async def failing(self, fault: str) -> AsyncIterator[Connector]:
        async with AsyncExitStack() as stack:
            # No token, as where a service knows none; an empty body serves HEAD and GET alike.
            server = await stack.enter_async_context(
                FaultServer(on_get=answer("200 OK"), on_other=http_reply(fault))
            )
            url = {
                "unreachable": f"http://127.0.0.1:{free_port()}",
                "name_not_resolved": "https://does-not-exist.invalid",
            }.get(fault, server.url)
            connector = self.connector(url=url, timeout_seconds=1.0)
            stack.push_async_callback(connector.close)
            yield connector


class ODataJsonHarness(ODataHarness):
    """The same with `$batch` in JSON."""

    variant = "json"
    settings: ClassVar[Mapping[str, object]] = {**ODataHarness.settings, "batch": "json"}
