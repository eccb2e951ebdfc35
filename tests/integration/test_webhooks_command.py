"""`fieldgate webhooks` and `events` on a real database, with the sender of a gateway and a receiver on
loopback.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from benchmarks.servers import patient, wait_until
from connectors.kit.egress import transport
from gateway.cli import webhooks as command
from gateway.cli.main import build
from gateway.credentials.endpoint_secrets import EndpointSealer
from gateway.credentials.vault import Vault
from gateway.events.webhook_request import Requests
from gateway.events.webhooks import WebhookSender
from gateway.model.errors import ConfigError, RequestRefused
from gateway.model.event import EventType, NewEvent
from gateway.settings import Settings
from gateway.store import outbox
from gateway.store.pool import Database
from tests.fixtures.webhook_receiver import Receiver

KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


class Shell:
    def __init__(self, folder: Path, dsn: str) -> None:
        self.config = folder / "fieldgate.yaml"
        (folder / "dsn").write_text(dsn)
        (folder / "key").write_text(KEY)
        self.tree: dict[str, Any] = {
            "customers": ["acme", "globex"],
            "database": {"dsn": "${file:dsn}"},
            "security": {"encryption_keys": ["${file:key}"]},
            "webhooks": {"allow_private_addresses": True, "allow_http": True},
        }
        self.config.write_text(json.dumps(self.tree))

    @property
    def settings(self) -> Settings:
        return Settings.model_validate({**self.tree, "security": {"encryption_keys": [KEY]}, "database": {}})

    async def run(self, *arguments: str, input: str | None = None) -> Result:
        return await asyncio.to_thread(
            CliRunner().invoke,
            build(arguments),
            [*arguments, "--config", str(self.config)],
            input=input,
        )

    async def json(self, *arguments: str, code: int = 0) -> Any:
        done = await self.run(*arguments, "--json")
        assert done.exit_code == code, (done.output, done.exception)
        return json.loads(done.stdout)


@pytest.fixture
def shell(tmp_path: Path, dsn: str) -> Shell:
    return Shell(tmp_path, dsn)


@asynccontextmanager
async def sending(shell: Shell, database: Database) -> AsyncIterator[None]:
    """What a gateway does with webhooks."""
    running = asyncio.create_task(
        WebhookSender(
            shell.settings,
            database,
            EndpointSealer(Vault([KEY])),
            requests=Requests(shell.settings.webhooks, transport),
        ).run()
    )
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def tell(
    database: Database, customer: str = "acme", type: EventType = EventType.CONNECTION_DEGRADED
) -> None:
    async with database.transaction() as connection:
        await outbox.append(
            connection,
            NewEvent(type=type, customer=customer, connection=f"{customer}-1", data={"reason": "why"}),
        )


async def test_one_is_made_tested_stopped_and_removed(shell: Shell, database: Database) -> None:
    async with Receiver() as receiver, sending(shell, database):
        made = await shell.json(
            "webhooks", "create", receiver.url, "--customer", "acme", "--event", "sync.failed"
        )
        hook = made["id"]
        assert made["secret"].startswith("whsec_") and made["types"] == ["sync.failed"]
        tested = await shell.json("webhooks", "test", hook)
        assert tested["delivery"]["state"] == "delivered"
        [got] = receiver.received
        assert json.loads(got.body)["type"] == "fieldgate.webhook.test" and got.data["webhook"] == hook
        assert got.data["customer"] == "acme" and "secret" not in got.body.decode()

        receiver.answer = 500
        refused = await shell.run("webhooks", "test", hook)
        assert refused.exit_code == 1 and "500" in refused.stdout and "tried again" in refused.stdout
        listed = await shell.run("webhooks", "list")
        assert "fails for" in listed.stdout

        assert (await shell.json("webhooks", "disable", hook))["state"] == "disabled"
        assert "disabled (operator)" in (await shell.run("webhooks", "list", "--customer", "acme")).stdout
        again = await shell.run("webhooks", "test", hook)
        assert isinstance(again.exception, RequestRefused) and "enable it" in str(again.exception)
        receiver.answer = 204
        await shell.json("webhooks", "enable", hook)
        old = made["secret"]
        new = (await shell.json("webhooks", "rotate", hook))["secret"]
        assert new != old
        unasked = await shell.run("webhooks", "delete", hook)
        assert isinstance(unasked.exception, ConfigError) and "--yes" in str(unasked.exception)
        assert (await shell.json("webhooks", "delete", hook, "--yes"))["state"] == "removed"
        assert "no webhooks" in (await shell.run("webhooks", "list")).stdout


async def test_what_was_delivered_is_shown_and_sent_once_more(shell: Shell, database: Database) -> None:
    async with Receiver() as receiver, sending(shell, database):
        hook = (await shell.json("webhooks", "create", receiver.url, "--customer", "acme"))["id"]
        await tell(database)
        await tell(database, "globex")
        await wait_until(lambda: len(receiver.received) == 1, what="acme's event arrives")
        [delivered] = await shell.json("webhooks", "deliveries", hook)
        assert (delivered["type"], delivered["state"]) == ("connection.degraded", "delivered")
        sent = await shell.json("webhooks", "resend", hook, delivered["event_id"])
        assert sent["delivery"]["replay"] is True
        assert [each.id for each in receiver.received] == [delivered["event_id"]] * 2
        assert receiver.received[1].headers["fieldgate-replay"] == "true"
        [theirs] = [each for each in await _events(shell) if each["data"]["customer"] == "globex"]
        other = await shell.run("webhooks", "resend", hook, theirs["id"])
        assert isinstance(other.exception, RequestRefused), (
            "another customer's event is none of this webhook's"
        )
        wrong = await shell.run("webhooks", "resend", hook, "nonsense")
        assert isinstance(wrong.exception, RequestRefused) and "no event's id" in str(wrong.exception)
        assert (await shell.json("webhooks", "replay", hook, "--since", "1h", "--yes"))["replayed"] == 1
        await wait_until(lambda: len(receiver.received) == 3, what="the replay arrives")


async def test_without_a_gateway_nothing_is_claimed(
    shell: Shell, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "ANSWER_SECONDS", 0.5)
    hook = (await shell.json("webhooks", "create", "http://127.0.0.1:1/x"))["id"]
    done = await shell.run("webhooks", "test", hook)
    assert done.exit_code == 1 and "is a gateway running?" in done.stdout


async def test_what_there_is_not_is_an_error_that_says_what_is_near(shell: Shell, database: Database) -> None:
    hook = (await shell.json("webhooks", "create", "http://127.0.0.1:1/x"))["id"]
    for arguments in (("test",), ("disable",), ("rotate",), ("deliveries",), ("delete", "--yes")):
        done = await shell.run("webhooks", arguments[0], f"{hook[:-1]}x", *arguments[1:])
        assert isinstance(done.exception, RequestRefused) and hook in str(done.exception), arguments
    wrong = await shell.run("webhooks", "create", "http://127.0.0.1:1/x", "--event", "conection.degraded")
    assert isinstance(wrong.exception, ConfigError) and "connection.degraded" in str(wrong.exception)
    nobody = await shell.run("webhooks", "list", "--customer", "acmee")
    assert isinstance(nobody.exception, RequestRefused) and "'acme'" in str(nobody.exception)


async def _events(shell: Shell, *arguments: str) -> list[dict[str, Any]]:
    done = await shell.run("events", *arguments, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_events_are_listed_the_newest_last_by_what_is_asked(shell: Shell, database: Database) -> None:
    for customer, kind in (
        ("acme", EventType.CONNECTION_DEGRADED),
        ("globex", EventType.SYNC_FAILED),
        ("acme", EventType.CONNECTION_RECOVERED),
    ):
        await tell(database, customer, kind)
    every = await _events(shell)
    assert [each["type"] for each in every] == [
        "fieldgate.connection.degraded",
        "fieldgate.sync.failed",
        "fieldgate.connection.recovered",
    ]
    assert await _events(shell, "--limit", "1") == every[-1:]
    assert await _events(shell, "--customer", "globex") == every[1:2]
    assert await _events(shell, "--type", "sync.failed", "--type", "connection.recovered") == every[1:]
    assert await _events(shell, "--since", "1ms") == []
    shown = (await shell.run("events")).stdout.splitlines()
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ +connection\.degraded +acme-1 +why", shown[0])
    for wrong in (("--type", "sync.faild"), ("--since", "soon")):
        refused = await shell.run("events", *wrong)
        assert isinstance(refused.exception, ConfigError) and wrong[0] in str(refused.exception)


async def test_events_are_followed_as_they_come(shell: Shell, database: Database) -> None:
    await tell(database)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "events", "--follow", "--json",
        "--customer", "acme", "--config", str(shell.config),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with patient(60):
            first = json.loads(await process.stdout.readline())
            await tell(database, "globex")
            await tell(database, "acme", EventType.CONNECTION_RECOVERED)
            second = json.loads(await process.stdout.readline())
    finally:
        process.terminate()
        await process.wait()
    assert (first["type"], second["type"]) == (
        "fieldgate.connection.degraded",
        "fieldgate.connection.recovered",
    )
