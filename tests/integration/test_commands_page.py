"""docs/commands.md: its examples work as they are written, and it names every command."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path

import orjson
import pytest

from benchmarks.servers import patient, wait_until
from gateway.cli.main import COMMANDS
from gateway.settings import Settings
from gateway.store.pool import Database
from tests.fixtures.commanding import commanded
from tests.fixtures.schemas import validate
from tests.integration.test_mosquitto_files import PASSWORDS, Broker, broker, process

__all__ = ["broker", "process"]  # fixtures

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "mosquitto" / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if "adr" not in path.parts
}
PAGE = PAGES["docs/commands.md"]
EXAMPLES = re.findall(r"^mosquitto_(?:rr|pub) .+$", PAGE, re.MULTILINE)
PROGRAM = re.compile(r"(?:^|`)(mosquitto_(?:rr|pub|sub) [^`\n]+)", re.MULTILINE)
WRITTEN = [(page, command) for page, text in PAGES.items() for command in PROGRAM.findall(text)]


def on(broker: Broker, line: str, user: str) -> str:
    """What is written, at this broker: the reader's own host, port, authority and password stand in the same
    places.
    """
    for written, here in {
        "broker.example.com": "localhost",
        "HOST": "localhost",
        "-p 8883": f"-p {broker.port}",
        "--cafile ca.crt": f"--cafile {broker.directory}/certificates/ca.crt",
        "-P ...": f"-P {PASSWORDS[user]}",
        "-P secret": f"-P {PASSWORDS[user]}",
    }.items():
        line = line.replace(written, here)
    return line


async def example(line: str) -> tuple[int | None, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        line,
        env={"PATH": "/usr/bin:/bin:/usr/local/bin:/opt/homebrew/bin"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return process.returncode, output.strip(), errors


async def test_the_examples_are_answered_at_the_broker_as_delivered(
    broker: Broker, process: subprocess.Popen[bytes], database: Database
) -> None:
    settings = Settings.model_validate(
        {
            "broker": {
                "url": f"mqtts://localhost:{broker.port}",
                "ca_file": str(broker.directory / "certificates" / "ca.crt"),
                "username": "gateway",
                "password": PASSWORDS["gateway"],
            },
            "security": {"encryption_keys": ["k"]},
            "customers": ["acme"],
        }
    )
    found = re.search(r'^BROKER=".+"$', PAGE, re.MULTILINE)
    assert found and len(EXAMPLES) == 4
    lines = [on(broker, f"{found[0]}\n{line}", "acme") for line in EXAMPLES]
    async with commanded(settings, database) as service:

        async def answers() -> bool:
            return (await example(lines[0]))[0] == 0

        await wait_until(answers, what="the gateway answers")
        done = [await example(line) for line in lines]
        assert [code for code, _, _ in done] == [0] * 4, done
        said = [output for _, output, _ in done]
        names = [validate("fieldgate/v1/customers/acme/responses/me", answer) for answer in said[:3]]
        assert names == ["StatusAnswer", "SyncAnswer", "ExplainAnswer"]
        assert orjson.loads(said[2])["explanation"]["samples"][0]["meters"][0]["meter"] == "pump-7-T"
        assert said[3] == b""
        async with patient(10):
            while service.asked != [("acme-1", True), ("acme-1", False)]:
                await asyncio.sleep(0.01)


async def test_what_the_broker_says_of_itself_is_read_as_the_page_says(
    broker: Broker, process: subprocess.Popen[bytes]
) -> None:
    [line] = [command for page, command in WRITTEN if page == "docs/operations.md" and "$SYS" in command]
    code, output, errors = await example("timeout 20 " + on(broker, line, "gateway"))
    assert code == 0 and output, (line, errors)


@pytest.mark.parametrize(("page", "command"), WRITTEN)
def test_every_written_client_has_an_id_which_the_delivered_broker_wants(page: str, command: str) -> None:
    assert re.search(r" (-i \S+|\$BROKER)", command), page


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_on_the_page(command: str) -> None:
    assert re.search(rf"`{command}\b", PAGE.partition("## On the command line")[2]), command
