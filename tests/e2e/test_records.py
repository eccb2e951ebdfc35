"""Records from a system to a consumer that was away, on a real daemon: over HTTP by the consumer that the
documents show, over MQTT by the command, and through a kill in the middle.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from benchmarks.daemon import Daemon
from benchmarks.servers import PATIENCE, Mosquitto, wait_until
from gateway.model.access import Role
from gateway.store import access
from gateway.store.pool import Database
from tests.fixtures.commanding import Customer, customer
from tests.fixtures.shelf import Shelf, installed

# what is installed beside it is found by a start alone
pytestmark = pytest.mark.usefixtures("started_alone")

PAGE = (Path(__file__).parents[2] / "docs" / "records.md").read_text()


@asynccontextmanager
async def serving(
    tmp_path: Path, mosquitto: Mosquitto, dsn: str, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Daemon]:
    monkeypatch.setenv("PYTHONPATH", installed(tmp_path / "site"))
    sync = {"interval": "1s", "pull_interval": "1s", "publish_records": "retained"}
    connection = {
        "id": "acme-1",
        "customer": "acme",
        "system": "shelf",
        "settings": {"file": str(shelf.path)},
        "sync": sync,
    }
    daemon = Daemon(
        tmp_path, broker_url=mosquitto.url, dsn=dsn, connections=[connection], sync={"lease": "2s"}
    )
    daemon.start()
    try:
        await daemon.ready()
        yield daemon
    finally:
        await daemon.kill()


def consumer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, daemon: Daemon, token: str) -> Any:
    """The function of the documents."""
    monkeypatch.setenv("GATEWAY_URL", f"http://127.0.0.1:{daemon.port}")
    monkeypatch.setenv("TOKEN", token)
    monkeypatch.setenv("CURSOR_FILE", str(tmp_path / "cursor"))
    monkeypatch.setenv("no_proxy", "*")
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(code.rstrip().split("\n\n\n", 1)[1].splitlines()) <= 20
    names: dict[str, Any] = {}
    exec(compile(code, "docs/records.md", "exec"), names)
    return names["follow"]


async def test_a_consumer_that_was_away_catches_up(
    tmp_path: Path, mosquitto: Mosquitto, dsn: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(tmp_path / "shelf.jsonl")
    shelf.put({f"w/{number}": {"n": number} for number in range(1200)})
    async with serving(tmp_path, mosquitto, dsn, shelf, monkeypatch) as daemon:
        made = await access.create(database, name="c", role=Role.VIEWER, customer="acme")
        secret = made.token
        follow = consumer(monkeypatch, tmp_path, daemon, secret)
        seen: dict[str, Any] = {}

        def apply(item: dict[str, Any]) -> None:
            if item["change"] == "deleted":
                seen.pop(item["key"], None)
            else:
                seen[item["key"]] = item["body"]

        async def caught_up() -> bool:
            await _in_a_thread(follow, "acme", apply)
            return seen == shelf.holds

        await wait_until(caught_up, what="the history is read", seconds=60)
        cursor, then = (tmp_path / "cursor").read_text(), dict(seen)
        async with customer(mosquitto.port) as acme:
            # a day goes by without the consumer
            for round_number in range(5):
                shelf.put(
                    {f"w/{number}": {"n": number, "round": round_number} for number in range(0, 300, 7)}
                )
            shelf.put({f"w/{number}": None for number in range(10)})
            shelf.put({f"new-{number}": {"n": number} for number in range(100)})
            await _read(daemon, secret, "w/7", deleted=True)
            await daemon.kill()  # in the middle of whatever it does
            shelf.put({"after the kill": {"n": 1}})
            daemon.start()
            await daemon.ready()
            await wait_until(caught_up, what="what came meanwhile is read", seconds=60)
            by_command = await _all_of(acme, cursor)
            followed = {key: body for key, body in (then | by_command).items() if body is not None}
            assert followed == shelf.holds, "what it had when it left, and what the command told since"


async def _in_a_thread(follow: Any, name: str, apply: Any) -> None:
    await asyncio.to_thread(follow, name, apply)


async def _read(daemon: Daemon, token: str, key: str, *, deleted: bool) -> None:
    """Until a record is as it should be, by its own address."""
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{daemon.port}", trust_env=False, timeout=10 * PATIENCE
    ) as client:

        async def there() -> bool:
            answer = await client.get(
                f"/v1/connections/acme-1/records/work_orders/{quote(key, safe='')}", headers=headers
            )
            return answer.status_code == 200 and (answer.json()["change"] == "deleted") is deleted

        await wait_until(there, what=f"{key} is read", seconds=60)
        other = await client.get("/v1/connections/acme-1/records/work_orders/nothing", headers=headers)
        assert (other.status_code, other.json()["code"]) == (404, "request.not_found")


async def _all_of(acme: Customer, cursor: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while True:
        answer = await acme.ask("records", {"cursor": cursor, "limit": 200})
        for item in answer["items"]:
            found[item["key"]] = None if item["change"] == "deleted" else item["body"]
        cursor = answer["next"]
        if not answer["has_more"]:
            return found
