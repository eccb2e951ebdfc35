"""docs/commands.md: its examples work as they are written, and it names every command."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import orjson
import pytest

from benchmarks.servers import Mosquitto
from gateway.cli.main import COMMANDS
from gateway.settings import Settings
from gateway.store.pool import Database
from tests.fixtures.commanding import commanded, customer
from tests.fixtures.schemas import validate

PAGE = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^mosquitto_(?:rr|pub) .+$", PAGE, re.MULTILINE)


async def example(line: str, port: int) -> bytes:
    environment = {
        "PATH": "/usr/bin:/bin:/usr/local/bin:/opt/homebrew/bin",
        "BROKER": f"-h 127.0.0.1 -p {port}",
    }
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", line, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, (line, errors)
    return output.strip()


async def test_the_examples_are_answered(mosquitto: Mosquitto, database: Database) -> None:
    settings = Settings.model_validate(
        {"broker": {"url": mosquitto.url}, "security": {"encryption_keys": ["k"]}, "customers": ["acme"]}
    )
    assert len(EXAMPLES) == 4
    async with commanded(settings, database) as service, customer(mosquitto.port) as acme:
        await acme.ask("status")
        answers = [await example(line, mosquitto.port) for line in EXAMPLES]
        names = [validate("fieldgate/v1/customers/acme/responses/me", answer) for answer in answers[:3]]
        assert names == ["StatusAnswer", "SyncAnswer", "ExplainAnswer"]
        assert orjson.loads(answers[2])["explanation"]["samples"][0]["meters"][0]["meter"] == "pump-7-T"
        assert answers[3] == b""
        async with asyncio.timeout(10):
            while service.asked != [("acme-1", True), ("acme-1", False)]:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_on_the_page(command: str) -> None:
    assert re.search(rf"`{command}\b", PAGE.partition("## On the command line")[2]), command
