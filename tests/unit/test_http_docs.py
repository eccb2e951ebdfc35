"""docs/http.md is right: its table of codes is the code's, and its examples run."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path

import pytest
import uvicorn

from benchmarks.servers import free_port, wait_until
from gateway.http.application import guarded
from gateway.http.problem import CODES
from tests.fixtures.http_fakes import world

TEXT = (Path(__file__).parents[2] / "docs" / "http.md").read_text()


def test_the_table_of_codes_is_the_code_s() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| (\d+) \| (yes|no) \| (.+?) \|$", TEXT, re.MULTILINE)
    assert rows == [
        (code, str(kind.status), "yes" if kind.retryable else "no", kind.title)
        for code, kind in CODES.items()
    ]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples need curl: apt-get install curl")
async def test_the_examples_run() -> None:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(guarded(world().app), port=port, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    await wait_until(lambda: asyncio.sleep(0, server.started), what="the server listens")
    commands = re.findall(r"^curl .+$", TEXT, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        environment = {
            "GATEWAY_URL": f"http://127.0.0.1:{port}",
            "TOKEN": "operator",
            "PATH": "/usr/bin:/bin",
        }
        process = await asyncio.create_subprocess_exec(
            "sh",
            "-c",
            f"{command} --fail-with-body --noproxy '*'",
            stdout=asyncio.subprocess.PIPE,
            env=environment,
        )
        answer, _ = await process.communicate()
        assert process.returncode == 0, (command, answer)
        assert json.loads(answer), command
    server.should_exit = True
    await serving
