"""`fieldgate init --embedded` and `fieldgate run --embedded`: from nothing to a gateway that every other command
finds, on a machine that has neither a broker nor a database.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.servers import free_port, wait_until
from tests.fixtures import programs

ROOT = Path(__file__).parents[2]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gateway", *arguments]


def fieldgate(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return programs.fieldgate(*arguments, env={**os.environ, **environ})


async def test_a_gateway_with_servers_of_its_own_is_found_by_the_other_commands(enterable: Path) -> None:
    made = fieldgate("init", str(enterable / "plant"), "--embedded")
    config = ("--config", str(enterable / "plant/fieldgate.yaml"))
    assert made.returncode == 0, made.stderr
    said = made.stdout.splitlines()[-1].split()
    assert said[:3] == ["fieldgate", "run", "--embedded"]
    assert not (enterable / "plant/secrets/database_dsn").exists() and not (enterable / "plant/.env").exists()
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        command(*said[1:]),
        cwd=ROOT,
        env={**os.environ, "FIELDGATE_HTTP__LISTEN": address},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:

        async def is_there() -> bool:
            assert process.poll() is None
            return fieldgate("devices", "list", *config).returncode == 0

        await wait_until(is_there, what="the gateway has its database", seconds=90)
        broker = (enterable / "plant/var/broker.url").read_text()
        sent = fieldgate(
            "simulate", "--broker", broker, "--customer", "acme", "--duration", "2s", "--devices", "1"
        )
        assert sent.returncode == 0, sent.stderr

        async def is_heard() -> bool:
            return "pump-01" in fieldgate("devices", "list", *config).stdout

        await wait_until(is_heard, what="the device is seen", seconds=60)
        assert (enterable / "plant/var/database.dsn").stat().st_mode & 0o777 == 0o600
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.parametrize("key", ["broker.url", "database.dsn"])
def test_servers_that_nobody_would_use_are_not_started_for_long(enterable: Path, key: str) -> None:
    variable, named = {
        "broker.url": ("FIELDGATE_BROKER__URL", "mqtt://broker.example.com:1883"),
        "database.dsn": ("FIELDGATE_DATABASE__DSN", "postgresql://a:b@db.example.com/c"),
    }[key]
    done = fieldgate(
        "run",
        "--embedded",
        "--data-dir",
        str(enterable / "var"),
        **{variable: named, "FIELDGATE_HTTP__LISTEN": f"127.0.0.1:{free_port()}"},
    )
    assert done.returncode == 2
    assert f"fieldgate: {key} names a server of its own" in done.stderr
    assert f"${{file:{enterable / 'var' / key}}}" in done.stderr


def test_what_embedded_brings_cannot_be_named(enterable: Path) -> None:
    for option in (("--broker", "mqtt://h:1"), ("--dsn", "postgresql://h/d"), ("--username", "u")):
        done = fieldgate("init", str(enterable / "plant"), "--embedded", *option)
        assert done.returncode == 2 and "--embedded brings" in done.stderr
        assert not (enterable / "plant").exists()
