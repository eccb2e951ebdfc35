"""The configuration is read again in a process of its own: the loop turns meanwhile, and what comes is what
reading it here gives.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway import reading
from gateway.model.errors import ConfigError
from gateway.reading import read, read_again

MAIN = """
broker: {url: "mqtt://127.0.0.1:1883"}
database: {dsn: "${file:dsn}"}
security: {encryption_keys: ["${file:key}"]}
customers: [acme]
connections_file: connections.yaml
"""
CONNECTION = """
  - id: c%d
    customer: acme
    system: http_json
    settings: {base_url: "http://127.0.0.1:9"}
    credentials: {type: basic, username: u, password: "${file:token}"}
    meters:
      - {device: "*", metric: t, meter: "{device} t", reduce: mean, every: 10s}
"""


def written(folder: Path, connections: int, main: str = MAIN) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "dsn").write_text("postgresql://gateway:s3cret@127.0.0.1/gateway")
    (folder / "key").write_text("bm90LWEtc2VjcmV0LW9ubHktZm9yLXRocm93LWF3YXktc2VydmVycw==")
    (folder / "token").write_text("a-token-of-a-test")
    body = "connections:" + "".join(CONNECTION % number for number in range(connections))
    (folder / "connections.yaml").write_text(body if connections else "connections: []")
    path = folder / "fieldgate.yaml"
    path.write_text(main)
    return path


async def test_the_loop_turns_while_a_thousand_connections_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, 1000)
    longest, turned, done = 0.0, time.monotonic(), False

    async def turn() -> None:
        nonlocal longest, turned
        while not done:
            await asyncio.sleep(0.005)
            now = time.monotonic()
            longest, turned = max(longest, now - turned), now

    turning = asyncio.create_task(turn())
    loaded = await read_again(path)
    done = True
    await turning
    began = time.monotonic()
    assert loaded == read(path)
    assert longest < (time.monotonic() - began) / 2


async def test_what_a_program_gives_where_the_file_says_nothing_is_taken_along(tmp_path: Path) -> None:
    path = written(tmp_path, 1, MAIN.replace('broker: {url: "mqtt://127.0.0.1:1883"}', ""))
    fallback = {"broker": {"url": "mqtt://127.0.0.1:1999"}}
    loaded = await read_again(path, fallback)
    assert loaded == read(path, fallback) and loaded.settings.broker.urls == ("mqtt://127.0.0.1:1999",)


async def test_a_fault_is_told_as_it_is_here(tmp_path: Path) -> None:
    path = written(tmp_path, 2, MAIN + "nonsense: 1\n")
    with pytest.raises(ConfigError) as here:
        read(path)
    with pytest.raises(ConfigError) as there:
        await read_again(path)
    assert str(there.value) == str(here.value) and "nonsense" in str(there.value)


async def test_a_process_that_dies_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PROGRAM", f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})")
    with pytest.raises(ConfigError, match="ended with -9"):
        await read_again(written(tmp_path, 1))


async def test_a_file_that_does_not_come_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "READ_SECONDS", 1.0)
    os.mkfifo(tmp_path / "fieldgate.yaml")
    with pytest.raises(ConfigError, match="within 1 s"):
        await read_again(tmp_path / "fieldgate.yaml")


def test_a_reader_whose_daemon_is_killed_ends_without_a_word(tmp_path: Path) -> None:
    for given in (pickle.dumps((tmp_path / "none.yaml", None)), b""):
        with subprocess.Popen(
            [sys.executable, "-c", reading.PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdin is not None and process.stdout is not None and process.stderr is not None
            process.stdout.close()
            process.stdin.write(given)
            process.stdin.close()
            assert process.stderr.read() == b""
