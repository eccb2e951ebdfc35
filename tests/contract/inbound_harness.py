"""What the inbound half of the contract suite needs of a connector: a running system with a stream, whose
records the test makes, changes and removes at times of its choosing.

Records are numbers to the tests; a harness says how its system calls them.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Protocol
from zoneinfo import ZoneInfo

import asyncpg
import httpx
import pytest
from odatapy.data import Entity, ValueType

from benchmarks.servers import PATIENCE
from connectors.kit.sap import reader as sap_reader
from connectors.maintainx import reader as maintainx_reader
from connectors.registry import SYSTEMS
from connectors.sap_s4hana import reader as s4hana_reader
from connectors.tryton import connector as tryton_connector
from gateway.demo.cmms import DemoCmms
from gateway.demo.work_orders import WorkOrder
from gateway.model.connector import Connector
from gateway.model.exchange import EventToRaise, RaisesEvents
from gateway.model.inbound import InboundRecord
from gateway.model.reading import make_batch
from tests.contract.harness import Calls, MaintainXHarness, PostgresHarness, _settings, reading
from tests.contract.http_json_harness import HttpJsonHarness
from tests.contract.list_server import ListServer
from tests.contract.odata_harness import ODataHarness
from tests.contract.sap_harness import EccHarness, S4hanaHarness
from tests.contract.sap_servers import serving
from tests.contract.tryton_harness import TrytonHarness

PAGE = 7
_NO_HTTP = "it speaks no HTTP"
HTTP_RULES = ("unauthorized", "rate_limited", "cut", "web_page", "gzip_bomb", "gone")
BERLIN = "Europe/Berlin"


class Inbound(Protocol):
    """One stream of one connector."""

    system: str
    stream: str
    exempt: Mapping[str, str]
    """Rules that do not apply, with the reason."""

    def running(
        self, dsn: str, patch: pytest.MonkeyPatch, zone: str = "UTC"
    ) -> AbstractAsyncContextManager[None]:
        """With pages of PAGE records, where the system leaves that to us. `zone`: of its naive times."""
        ...

    def connector(self, *, url: str | None = None, calls: Calls | None = None) -> Connector:
        """`url`: by way of a proxy there."""
        ...

    @property
    def address(self) -> str:
        """What a proxy stands before."""
        ...

    async def put(self, number: int, at: datetime, text: str = "text") -> None:
        """Makes the record, or changes it, at that time."""
        ...

    async def remove(self, number: int) -> None: ...

    def number_of(self, record: InboundRecord) -> int: ...


class MaintainXInbound(MaintainXHarness):
    """The demonstration CMMS."""

    stream = "work_orders"
    exempt: Mapping[str, str] = {"naive_times": "its times bear a zone"}

    @asynccontextmanager
    async def running(  # type: ignore[override]
        self, dsn: str, patch: pytest.MonkeyPatch, zone: str = "UTC"
    ) -> AsyncIterator[None]:
        patch.setattr(maintainx_reader, "_PAGE_SIZE", PAGE)
        async with DemoCmms(api_key=self.key, meters=["pump-1 temperature"]) as self.cmms:
            self.cmms.switches.rate_limit = 10_000
            yield

    @property
    def address(self) -> str:
        return self.cmms.url.removesuffix("/v1")

    def connector(self, *, url: str | None = None, calls: Calls | None = None, **_: Any) -> Connector:
        return super().connector(url=None if url is None else f"{url}/v1", calls=calls)

    async def put(self, number: int, at: datetime, text: str = "text") -> None:
        made = self.cmms.workshop.orders.get(number)
        self.cmms.workshop.put(
            WorkOrder(
                id=number, title=text, created_at=at if made is None else made.created_at, updated_at=at
            )
        )

    async def remove(self, number: int) -> None:
        self.cmms.workshop.remove(number)

    def number_of(self, record: InboundRecord) -> int:
        return int(record.key)


class HttpJsonInbound(HttpJsonHarness):
    """A list with a link to the next page."""

    odd_are_open = reads_reference = True
    stream = "things"
    kind: ClassVar[str] = "next"
    variant: ClassVar[str] = "next"
    exempt: Mapping[str, str] = {"naive_times": "the variant `local` has them"}
    paging: ClassVar[Mapping[str, object]] = {"kind": "next", "path": "next"}
    more: ClassVar[Mapping[str, object]] = {}

    @asynccontextmanager
    async def running(  # type: ignore[override]
        self, dsn: str, patch: pytest.MonkeyPatch, zone: str = "UTC"
    ) -> AsyncIterator[None]:
        self.zone = zone
        self.server = ListServer(kind=self.kind, write=self.write)
        async with serving(self.server) as self.url:
            yield

    def write(self, at: datetime) -> Any:
        return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    @property
    def address(self) -> str:
        return self.url

    def connector(self, *, url: str | None = None, calls: Calls | None = None, **_: Any) -> Any:  # type: ignore[override]
        stream = {
            "path": "/things",
            "items": "things",
            "modified": "updated",
            "query": {"since": "{since}", "until": "{until}", "limit": "{page}"},
            "open_query": {"status": "open"},
            "deletions": "keys",
            "reference": "text",
            "page": PAGE,
            "paging": self.paging,
            **self.more,
        }
        return super().connector(url=url, calls=calls, streams={"things": stream})

    async def put(self, number: int, at: datetime, text: str = "text") -> None:
        self.server.put(f"k{number:06d}", at, text=text, status="open" if number % 2 else "closed")

    async def remove(self, number: int) -> None:
        self.server.remove(f"k{number:06d}")

    def number_of(self, record: InboundRecord) -> int:
        return int(record.key[1:])


class HttpJsonHeaderInbound(HttpJsonInbound):
    """`Link` in the header."""

    kind = variant = "header"
    paging: ClassVar[Mapping[str, object]] = {"kind": "header"}


class HttpJsonCursorInbound(HttpJsonInbound):
    """A word that is sent back."""

    kind = variant = "cursor"
    paging: ClassVar[Mapping[str, object]] = {"kind": "cursor", "path": "cursor", "parameter": "after"}


class HttpJsonOffsetInbound(HttpJsonInbound):
    """By offset: every seam is proved."""

    kind = variant = "offset"
    exempt: Mapping[str, str] = {
        **HttpJsonInbound.exempt,
        "change_while_walked": "a list that counts says that it moved: `moved_is_noticed`",
        "gone": "an offset does not expire",
    }
    paging: ClassVar[Mapping[str, object]] = {"kind": "offset", "parameter": "offset"}


class HttpJsonPageInbound(HttpJsonOffsetInbound):
    """By number of page, with a total."""

    kind = variant = "page"
    paging: ClassVar[Mapping[str, object]] = {"kind": "page", "parameter": "number"}
    more: ClassVar[Mapping[str, object]] = {"total": "count"}


class HttpJsonOrderedInbound(HttpJsonInbound):
    """By number of page, ascending by the time of change; times are milliseconds since 1970."""

    kind, variant = "page", "ordered"
    exempt: Mapping[str, str] = {**HttpJsonInbound.exempt, "gone": "a page does not expire"}
    paging: ClassVar[Mapping[str, object]] = {"kind": "page", "parameter": "number"}
    more: ClassVar[Mapping[str, object]] = {"ordered": True, "time": "epoch_milliseconds"}

    def write(self, at: datetime) -> Any:
        return int(at.timestamp() * 1000)


class HttpJsonLocalInbound(HttpJsonInbound):
    """Naive local times."""

    variant = "local"
    exempt: Mapping[str, str] = {}

    @property
    def more(self) -> Mapping[str, object]:  # type: ignore[override]
        return {"time": "local", "time_zone": self.zone}

    def write(self, at: datetime) -> Any:
        return at.astimezone(ZoneInfo(self.zone)).replace(tzinfo=None).isoformat(timespec="seconds")


class PostgresInbound(PostgresHarness):
    """A real table of its own, with `timestamp` in the zone."""

    odd_are_open = reads_reference = True
    stream = "things"
    exempt: Mapping[str, str] = {
        **dict.fromkeys((*HTTP_RULES, "out_of_order"), _NO_HTTP),
        "expired_cursor": "a page begins behind a row, whatever became of it",
    }

    @asynccontextmanager
    async def running(  # type: ignore[override]
        self, dsn: str, patch: pytest.MonkeyPatch, zone: str = "UTC"
    ) -> AsyncIterator[None]:
        self.dsn, self.zone, self.table = dsn, zone, f"thing_{secrets.token_hex(4)}"
        self.owner = await asyncpg.connect(dsn)
        await self.owner.execute(
            f"create table {self.table} (id int primary key, updated timestamp, status text, text text,"
            " amount numeric)"
        )
        try:
            yield
        finally:
            await self.owner.close()

    @property
    def address(self) -> str:
        raise AssertionError(_NO_HTTP)

    def connector(self, *, url: str | None = None, calls: Calls | None = None, **_: Any) -> Connector:
        stream = {
            "table": self.table,
            "modified": "updated",
            "page": PAGE,
            "time_zone": self.zone,
            "reference": "text",
            "progress": {"path": "status", "open": ["open"], "closed": ["closed"]},
        }
        settings = {"table": None, "streams": {"things": stream}}
        return SYSTEMS["postgres"].build(_settings(settings, {"dsn": self.dsn}, 5.0, calls))

    async def put(self, number: int, at: datetime, text: str = "text") -> None:
        wall = at.astimezone(ZoneInfo(self.zone)).replace(tzinfo=None)
        await self.owner.execute(
            f"insert into {self.table} values ($1, $2, $3, $4, 1.10) "
            "on conflict (id) do update set updated = $2, text = $4",
            number,
            wall,
            "open" if number % 2 else "closed",
            text,
        )

    async def remove(self, number: int) -> None:
        await self.owner.execute(f"delete from {self.table} where id = $1", number)

    def number_of(self, record: InboundRecord) -> int:
        return int(record.key)


class ODataInbound(ODataHarness):
    """odatapy, which pages by itself."""

    odd_are_open = reads_reference = True
    stream = "readings"
    exempt: Mapping[str, str] = {"naive_times": "its times bear a zone"}
    page_size: ClassVar[int] = PAGE
    settings: ClassVar[Mapping[str, object]] = {
        **ODataHarness.settings,
        "streams": {
            "readings": {
                "entity_set": "meterReadings",
                "key": "systemId",
                "page": PAGE,
                "reference": "remark",
                "progress": {"path": "source", "open": ["open"], "closed": ["closed"]},
            }
        },
    }

    @asynccontextmanager
    async def running(  # type: ignore[override]
        self, dsn: str, patch: pytest.MonkeyPatch, zone: str = "UTC"
    ) -> AsyncIterator[None]:
        async with super().running(dsn):
            yield

    @property
    def address(self) -> str:
        return self.url

    async def put(self, number: int, at: datetime, text: str = "text") -> None:
        rows = self.processor.store.data.setdefault("meterReadings", [])
        key = f"id-{number:06d}"
        entity = next((row for row in rows if row.get_value("systemId") == key), None)
        if entity is None:
            entity = Entity(type="example.iot.meterReading")
            rows.append(entity)
        for name, value in (
            ("systemId", key),
            ("remark", text),
            ("source", "open" if number % 2 else "closed"),
        ):
            entity.set_property(name, value, ValueType.PRIMITIVE, "Edm.String")
        entity.set_property("lastModifiedDateTime", at, ValueType.PRIMITIVE, "Edm.DateTimeOffset")

    async def remove(self, number: int) -> None:
        rows = self.processor.store.data["meterReadings"]
        rows[:] = [row for row in rows if row.get_value("systemId") != f"id-{number:06d}"]

    def number_of(self, record: InboundRecord) -> int:
        return int(record.key.removeprefix("id-"))


class _SapInbound:
    """What the SAP streams share: small pages, and the V2 server asked directly for what a person does in
    SAP.
    """

    page_size: ClassVar[int] = PAGE

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        for module in (
            "connectors.kit.sap.records",
            "connectors.sap_s4hana.points",
            "connectors.sap_ecc.connector",
        ):
            patch.setattr(f"{module}.PAGE", PAGE)
        patch.setattr(sap_reader, "PAGE", PAGE)
        patch.setattr(s4hana_reader, "PAGE", PAGE)

    async def _write(self: Any, path: str, key: str | None, body: Mapping[str, object]) -> None:
        """Past the front and its sessions."""
        [tenant] = [name for name, rules in self.node._registry.items() if rules is self.rules]
        url = f"http://127.0.0.1:{self.node.port}{path}" + (f"('{key}')" if key else "")
        async with httpx.AsyncClient(timeout=10 * PATIENCE) as client:
            method = "PATCH" if key else "POST"
            answer = await client.request(
                method,
                url,
                params={"sap-client": tenant},
                json=dict(body),
                headers={"accept": "application/json"},
            )
            assert answer.status_code < 300, answer.text


class S4hanaInbound(_SapInbound, S4hanaHarness):
    """fe-mockserver: notifications, raised by the connector and changed by hand."""

    stream = "notifications"
    exempt: Mapping[str, str] = {
        "naive_times": "its times bear a zone",
        "deletion": "a notification is marked for deletion: `tombstone`",
        "expired_cursor": "a page begins behind a record, whatever became of it",
    }

    @asynccontextmanager
    async def running(  # type: ignore[override]
        self, dsn: str, patch: pytest.MonkeyPatch, zone: str = "UTC"
    ) -> AsyncIterator[None]:
        self._patch(patch)
        self.numbers: dict[int, str] = {}
        async with super().running(dsn, zone=zone):
            yield

    @property
    def address(self) -> str:
        return self.url

    async def put(self, number: int, at: datetime, text: str = "text") -> None:
        path = "/sap/opu/odata/sap/API_MAINTNOTIFICATION/MaintenanceNotification"
        if number not in self.numbers:
            self.rules.now = lambda: at  # type: ignore[method-assign]
            body = {
                "MaintNotifExtReferenceNumber": f"N-{number}",
                "NotificationType": "M2",
                "NotificationText": text[:40],
            }
            await self._write(path, None, body)
            del self.rules.now
            self.numbers[number] = str(10_000_000 + len(self.rules.notifications))
            return
        stamp = f"/Date({int(at.timestamp() * 1000)}+0000)/"
        await self._write(
            path, self.numbers[number], {"LastChangeDateTime": stamp, "NotificationText": text[:40]}
        )

    async def remove(self, number: int) -> None:
        raise AssertionError("never")

    async def phase(self, number: int, phase: str) -> None:
        path = "/sap/opu/odata/sap/API_MAINTNOTIFICATION/MaintenanceNotification"
        await self._write(path, self.numbers[number], {"NotifProcessingPhase": phase})

    def number_of(self, record: InboundRecord) -> int:
        return int(str(record.reference).removeprefix("N-"))


class EccInbound(_SapInbound, EccHarness):
    """fe-mockserver: notifications with a naive date and time."""

    stream = "notifications"
    exempt: Mapping[str, str] = {
        "deletion": "a notification is marked for deletion: `tombstone`",
        "expired_cursor": "a page begins behind a record, whatever became of it",
    }

    @asynccontextmanager
    async def running(  # type: ignore[override]
        self, dsn: str, patch: pytest.MonkeyPatch, zone: str = "UTC"
    ) -> AsyncIterator[None]:
        self._patch(patch)
        self.made: set[int] = set()
        async with super().running(dsn, zone=zone):
            yield

    @property
    def address(self) -> str:
        return self.url

    def connector(self, *, url: str | None = None, calls: Calls | None = None, **more: Any) -> Connector:  # type: ignore[override]
        return super().connector(url=url, calls=calls, notifications={}, **more)

    async def put(self, number: int, at: datetime, text: str = "text") -> None:
        wall = at.astimezone(ZoneInfo(self.zone))
        day = int(datetime(wall.year, wall.month, wall.day, tzinfo=UTC).timestamp() * 1000)
        body: dict[str, object] = {
            "NotificationText": text[:40],
            "LastChangeDate": f"/Date({day})/",
            "LastChangeTime": f"PT{wall:%H}H{wall:%M}M{wall:%S}S",
        }
        key = f"{20_000_000 + number}"
        path = "/sap/opu/odata/sap/Z_MEASDOC_SRV/NotificationSet"
        if number in self.made:
            await self._write(path, key, body)
        else:
            self.made.add(number)
            await self._write(
                path, None, {**body, "MaintenanceNotification": key, "NotifProcessingPhase": "1"}
            )

    async def remove(self, number: int) -> None:
        raise AssertionError("never")

    async def phase(self, number: int, phase: str) -> None:
        path = "/sap/opu/odata/sap/Z_MEASDOC_SRV/NotificationSet"
        await self._write(path, f"{20_000_000 + number}", {"NotifProcessingPhase": phase})

    def number_of(self, record: InboundRecord) -> int:
        return int(record.key) - 20_000_000


_NEVER_CHANGED = "a document's time is that of its reading, which never changes"


class _Documents:
    """Documents, pushed as readings: one of each measuring point."""

    async def put(self: Any, number: int, at: datetime, text: str = "text") -> None:
        connector = (
            S4hanaHarness.connector(self) if self.system == "sap_s4hana" else EccHarness.connector(self)
        )
        await connector.push(make_batch("c", [reading(self.meter(number), at, 1.0)]))
        await connector.close()

    def number_of(self, record: InboundRecord) -> int:
        return int(str(record.body["MeasuringPoint"])) - 1000


class S4hanaDocuments(_Documents, S4hanaInbound):
    """odatapy: documents by their reading's naive time."""

    stream = "measurement_documents"
    variant = "documents"
    exempt: Mapping[str, str] = {
        "change_while_walked": _NEVER_CHANGED,
        "deletion": "a document is reversed, never deleted",
        "tombstone": "a document is reversed, never deleted",
        "hostile": "a document's texts are Fieldgate's own or a person's 40 characters",
        "expired_cursor": "a page begins behind a record, whatever became of it",
    }

    async def put(self, number: int, at: datetime, text: str = "text") -> None:
        await _Documents.put(self, number, at, text)

    def number_of(self, record: InboundRecord) -> int:
        return _Documents.number_of(self, record)


class EccDocuments(_Documents, EccInbound):
    """fe-mockserver: the same in version 2."""

    stream = "measurement_documents"
    variant = "documents"
    exempt: Mapping[str, str] = S4hanaDocuments.exempt

    async def put(self, number: int, at: datetime, text: str = "text") -> None:
        await _Documents.put(self, number, at, text)

    def number_of(self, record: InboundRecord) -> int:
        return _Documents.number_of(self, record)


class TrytonInbound(TrytonHarness):
    """A real Tryton; its times of change are written behind its back."""

    stream = "quality_inspections"
    exempt: Mapping[str, str] = {
        "naive_times": "its times bear a zone",
        "expired_cursor": "a page begins behind an id, whatever became of it",
        "clock": "its clock is the machine's: the server is a process of its own",
    }

    @asynccontextmanager
    async def running(  # type: ignore[override]
        self, dsn: str, patch: pytest.MonkeyPatch, zone: str = "UTC"
    ) -> AsyncIterator[None]:
        patch.setattr(tryton_connector, "_PAGE", PAGE)
        patch.setattr(tryton_connector, "_KEYS_PAGE", PAGE)
        self.ids: dict[int, int] = {}
        async with super().running(dsn):
            yield

    @property
    def address(self) -> str:
        return self.tryton.url

    def connector(self, *, url: str | None = None, calls: Calls | None = None, **more: Any) -> Any:  # type: ignore[override]
        return super().connector(url=url, calls=calls, **more)

    async def put(self, number: int, at: datetime, text: str = "text") -> None:
        await asyncio.to_thread(self._put, number, at, text)

    def _put(self, number: int, at: datetime, text: str) -> None:
        if number not in self.ids:
            control = self.tryton.first("quality.control", "name", "=", f"pump-{number % 30}")
            self.ids[number] = self.tryton.make(
                "quality.inspection",
                {"company": 1},
                control=control,
                company=1,
                reference=f"R-{number}",
                points={},
            )
        # as Tryton writes it: SQLite compares texts, and one with more digits lies behind the same time
        stamp = at.astimezone(UTC).replace(tzinfo=None).isoformat(" ")
        self._execute(
            "update quality_inspection set create_date = ?, write_date = ?, reference = ? where id = ?",
            (stamp, stamp, f"R-{number}" if text == "text" else text, self.ids[number]),
        )

    async def remove(self, number: int) -> None:
        await asyncio.to_thread(
            self._execute, "delete from quality_inspection where id = ?", (self.ids[number],)
        )

    def _execute(self, statement: str, arguments: Sequence[object]) -> None:
        with contextlib.closing(sqlite3.connect(self.tryton._file, timeout=30)) as connection, connection:
            connection.execute(statement, arguments)

    def number_of(self, record: InboundRecord) -> int:
        return next(number for number, made in self.ids.items() if str(made) == record.key)


INBOUND: tuple[type[Any], ...] = (
    MaintainXInbound,
    HttpJsonInbound,
    HttpJsonHeaderInbound,
    HttpJsonCursorInbound,
    HttpJsonOffsetInbound,
    HttpJsonPageInbound,
    HttpJsonOrderedInbound,
    HttpJsonLocalInbound,
    PostgresInbound,
    ODataInbound,
    S4hanaInbound,
    S4hanaDocuments,
    EccInbound,
    EccDocuments,
    TrytonInbound,
)
NODE_SERVED = (S4hanaInbound, S4hanaDocuments, EccInbound, EccDocuments)


async def raised(connector: Connector, reference: str, meter: str, at: datetime) -> Any:
    """What became of an event."""
    assert isinstance(connector, RaisesEvents)
    return await connector.raise_event(
        EventToRaise(reference=reference, title="Hot", text="It is hot", meter=meter, at=at, severity="high")
    )


HOUR = timedelta(hours=1)
