"""json-server, a list API by others, read by configuration: by pages with links, by number and by offset."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.servers import PATIENCE, free_port, patient
from connectors.http_json.connector import HttpJsonConnector
from gateway.model.errors import CursorExpired
from gateway.model.inbound import InboundRecord
from tests.contract.harness import _settings
from tests.contract.sap_servers import HERE, installed, node_binary

PAGE, COUNT = 7, 30
AT = datetime(2026, 11, 2, 10, tzinfo=UTC)
SECOND = timedelta(seconds=1)
QUERY = {
    "updated_gte": "{since}",
    "updated_lte": "{until}",
    "_sort": "updated,id",
    "_order": "asc,asc",
    "_limit": "{page}",
}
WAYS: Mapping[str, Mapping[str, object]] = {
    "links": {"query": {**QUERY, "_page": "1"}, "paging": {"kind": "header"}, "ordered": True},
    "pages": {"query": QUERY, "paging": {"kind": "page", "parameter": "_page"}},
    "ordered pages": {"query": QUERY, "paging": {"kind": "page", "parameter": "_page"}, "ordered": True},
    "offsets": {"query": QUERY, "paging": {"kind": "offset", "parameter": "_start"}},
}


def written(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Thirty work orders, four in a second."""
    try:
        modules = await asyncio.to_thread(installed, HERE / "list_api")
    except AssertionError as error:
        pytest.fail(str(error), pytrace=False)
    orders = [
        {
            "id": f"wo-{number:02d}",
            "updated": written(AT + number // 4 * SECOND),
            "status": "open" if number % 3 else "done",
        }
        for number in range(COUNT)
    ]
    database = tmp_path / "db.json"
    database.write_text(json.dumps({"orders": orders}))
    port = free_port()
    command = [
        node_binary(),
        str(modules / "json-server" / "lib" / "cli" / "bin.js"),
        "--quiet",
        "--host",
        "127.0.0.1",
    ]
    process = subprocess.Popen(
        [*command, "--port", str(port), str(database)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10 * PATIENCE) as client:
            async with patient(60):
                while True:
                    try:
                        await client.get("/orders?_limit=1")
                        break
                    except httpx.TransportError:
                        assert process.poll() is None
                        await asyncio.sleep(0.05)
            yield client
    finally:
        process.kill()
        process.wait()


def connected(server: httpx.AsyncClient, way: str) -> HttpJsonConnector:
    stream = {
        "path": "/orders",
        "items": ".",
        "modified": "updated",
        "open_query": {"status": "open", "_sort": "id", "_limit": "{page}"},
        "progress": {"path": "status", "open": ["open"], "closed": ["done"]},
        "deletions": "keys",
        "page": PAGE,
        **WAYS[way],
    }
    settings = {"base_url": str(server.base_url), "path": "/orders", "streams": {"orders": stream}}
    return HttpJsonConnector(_settings(settings, {}, 10.0, None))


async def walked(
    connector: Any, since: datetime | None, until: datetime, cursor: str | None = None
) -> list[InboundRecord]:
    records: list[InboundRecord] = []
    for _ in range(50):
        page = await connector.pull("orders", since, until, cursor)
        records += page.records
        cursor = page.cursor
        if cursor is None:
            return records
    raise AssertionError("the pages do not end")


@pytest.mark.parametrize("way", WAYS)
async def test_a_third_partys_list_is_read(server: httpx.AsyncClient, way: str) -> None:
    connector = connected(server, way)
    everything = {f"wo-{number:02d}" for number in range(COUNT)}
    assert {record.key for record in await walked(connector, None, AT + 100 * SECOND)} == everything
    part = await walked(connector, AT + 2 * SECOND, AT + 4 * SECOND)
    assert {record.key for record in part} == {f"wo-{number:02d}" for number in range(8, 16)}
    assert all(AT + 2 * SECOND <= (record.modified_at or AT) < AT + 4 * SECOND for record in part)
    now = await connector.remote_now("orders")
    assert abs(now - datetime.now(UTC)) < timedelta(seconds=30)
    open_ones = {record.key for record in (await connector.pull_open("orders")).records}
    assert open_ones and open_ones <= {f"wo-{number:02d}" for number in range(COUNT) if number % 3}
    await server.delete("/orders/wo-11")
    keys, cursor = [], None
    while True:
        page = await connector.keys("orders", cursor)
        keys += page.keys
        cursor = page.cursor
        if cursor is None:
            break
    assert set(keys) == everything - {"wo-11"}
    await connector.close()


@pytest.mark.parametrize("way", WAYS)
async def test_what_changes_in_mid_walk_loses_nothing(server: httpx.AsyncClient, way: str) -> None:
    connector = connected(server, way)
    until = AT + 100 * SECOND
    first = await connector.pull("orders", AT, until)
    await server.patch("/orders/wo-02", json={"updated": written(until + SECOND), "status": "done"})
    still = {f"wo-{number:02d}" for number in range(COUNT) if number != 2}
    try:
        rest = await walked(connector, AT, until, first.cursor)
        found = {record.key for record in [*first.records, *rest]}
    except CursorExpired:
        assert "ordered" not in WAYS[way], "a list that is followed by time need not begin again"
        found = {record.key for record in await walked(connector, AT, until)}
    assert still <= found
    changed = await walked(connector, until, until + 10 * SECOND)
    assert {(record.key, record.progress) for record in changed} == {("wo-02", "closed")}
    await connector.close()
