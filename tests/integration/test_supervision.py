"""What the daemon tells the service manager that started it: a socket on which this test listens as systemd
does; and the unit that is delivered.
"""

from __future__ import annotations

import asyncio
import configparser
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.daemon import Daemon
from benchmarks.servers import Mosquitto, wait_until
from gateway.processes.service_manager import Supervision

ROOT = Path(__file__).parents[2]
WATCHDOG_SECONDS = 0.6
UNIT = ROOT / "deploy" / "systemd" / "fieldgate.service"


class Manager:
    """Hears what is said. Made after the broker, which speaks as well where it is asked."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)
        self._said: list[str] = []
        self._heard_at = time.monotonic()

    def said(self) -> list[str]:
        while True:
            try:
                self._said += self.socket.recv(4096).decode().splitlines()
                self._heard_at = time.monotonic()
            except BlockingIOError:
                return list(self._said)

    def gives_up(self) -> bool:
        """Whether nothing was said for longer than it waits: it would start the daemon anew."""
        self.said()
        return time.monotonic() - self._heard_at > WATCHDOG_SECONDS

    def forget(self) -> None:
        self.said()
        self._said.clear()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    address = str(tmp_path / "notify")
    made = Manager(address)
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", str(int(WATCHDOG_SECONDS * 1e6)))
    yield made
    made.socket.close()


async def test_a_daemon_says_that_it_is_ready_alive_and_stopping(
    tmp_path: Path, mosquitto: Mosquitto, dsn: str, manager: Manager
) -> None:
    daemon = Daemon(tmp_path, broker_url=mosquitto.url, dsn=dsn)
    daemon.start()
    try:
        await daemon.ready(seconds=90)
        await wait_until(lambda: "READY=1" in manager.said(), what="it says that it is ready")
        said = manager.said()
        assert said.index("WATCHDOG=1") < said.index("READY=1"), "a long start is watched too"
        manager.forget()
        await wait_until(lambda: manager.said().count("WATCHDOG=1") >= 3, what="it says that it lives")
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            await wait_until(manager.gives_up, what="a daemon that hangs is silent", seconds=5)
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        assert await daemon.stop() == 0
        assert "STOPPING=1" in manager.said()
    finally:
        if daemon.exit_code is None:
            await daemon.kill()


async def test_a_start_that_waits_for_its_database_asks_for_time(
    tmp_path: Path, mosquitto: Mosquitto, manager: Manager
) -> None:
    daemon = Daemon(tmp_path, broker_url=mosquitto.url, dsn="postgresql://nobody@127.0.0.1:1/nowhere")
    daemon.start()
    try:
        await wait_until(lambda: "gateway.database_awaited" in daemon.log, seconds=60, what="it waits")
        assert "EXTEND_TIMEOUT_USEC=60000000" in manager.said() and "READY=1" not in manager.said()
        assert await daemon.stop() == 0
        assert "STOPPING=1" in manager.said()
    finally:
        if daemon.exit_code is None:
            await daemon.kill()


async def test_a_loop_that_hangs_says_nothing(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keep-alive is of the loop that acknowledges, not of a thread that would go on."""
    async with Supervision.open(asyncio.Event()) as supervision:
        supervision.ready()
        assert "NOTIFY_SOCKET" not in os.environ, "children must not speak for the daemon"
        await wait_until(lambda: "WATCHDOG=1" in manager.said(), what="it says that it lives")
        manager.forget()
        deadline = asyncio.get_running_loop().time() + 0.7
        while asyncio.get_running_loop().time() < deadline:
            pass
        assert manager.said() == []
        await wait_until(lambda: "WATCHDOG=1" in manager.said(), what="it goes on")


async def test_a_name_in_the_abstract_namespace_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"fieldgate-test-{os.getpid()}"
    manager = Manager(f"\0{name}")
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    try:
        async with Supervision.open(asyncio.Event()) as supervision:
            supervision.ready()
        assert "READY=1" in manager.said() and "WATCHDOG=1" not in manager.said()
    finally:
        manager.socket.close()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NOTIFY_SOCKET": "/nowhere/at/all", "WATCHDOG_USEC": "100000"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "100", "WATCHDOG_PID": "1"},
    ],
)
async def test_a_manager_that_is_not_there_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stopping = asyncio.Event()
    async with Supervision.open(stopping) as supervision:
        supervision.ready()
        stopping.set()
        await asyncio.sleep(0.05)


# the unit


def unit() -> configparser.ConfigParser:
    read = configparser.ConfigParser(strict=False, interpolation=None)
    read.optionxform = str  # type: ignore[assignment,method-assign]
    read.read_string(UNIT.read_text())
    return read


def test_the_unit_speaks_of_what_the_daemon_does() -> None:
    service = unit()["Service"]
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert float(service["WatchdogSec"]) >= 30
    assert service["RestartPreventExitStatus"] == "2" and "HUP" in service["ExecReload"]
    assert float(service["TimeoutStopSec"]) >= 60, "20 s of grace, and what closes after it"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze comes with systemd")
def test_systemd_takes_the_unit_and_finds_it_closed(tmp_path: Path) -> None:
    here = tmp_path / "fieldgate.service"
    here.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(here)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", "--no-pager", str(here)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert judged.returncode == 0, judged.stdout[-500:]
