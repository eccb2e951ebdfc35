"""The embedded broker: Mosquitto where it is installed, else rumqttd from a wheel, which keeps messages in
memory only.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from gateway.embedded.supervisor import ServerFailed, starting
from gateway.model.errors import ConfigError
from gateway.processes.parent import ends_with_parent

PORT = 1883
START_SECONDS = 15.0
SEARCH = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")


class EmbeddedBroker:
    """A broker on loopback. The port is 1883, or a free one when that is taken."""

    name: str
    durable: bool
    stop_signal = signal.SIGTERM

    def __init__(self, directory: Path, command: list[str]) -> None:
        self._directory = directory
        self._command = command
        self._port = 0

    @property
    def url(self) -> str:
        """For `broker.url`, once it was started; it stays the same."""
        return f"mqtt://127.0.0.1:{self._port}"

    def configuration(self) -> tuple[str, str]:
        """Name and text of the configuration file."""
        raise ConfigError(f"{type(self).__name__} has no configuration")

    async def start(self) -> subprocess.Popen[bytes]:
        """Returns when it accepts connections. An orphan of ours that still saves its
        sessions is waited for.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = await self._lock()
        try:
            return await self._started(lock)
        finally:
            os.close(lock)

    async def _lock(self) -> int:
        """The broker inherits it, so that it is held for as long as a broker of ours
        runs on the directory.
        """
        lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            async with asyncio.timeout(START_SECONDS):
                while not _locked(lock):
                    await asyncio.sleep(0.1)
        except TimeoutError as error:
            os.close(lock)
            raise ServerFailed(
                f"another broker runs on {self._directory} and does not end; stop it"
            ) from error
        return lock

    async def _started(self, lock: int) -> subprocess.Popen[bytes]:
        self._port = self._port or port_or_another(PORT)
        name, text = self.configuration()
        path = self._directory / name
        path.write_text(text)
        with (self._directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [*self._command, str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                pass_fds=(lock,),
                preexec_fn=ends_with_parent(signal.SIGTERM),
            )
        try:
            async with starting(process, self.stop_signal), asyncio.timeout(START_SECONDS):
                while not _accepts(self._port):
                    if process.poll() is not None:
                        words = (self._directory / "log").read_text(errors="replace")[-400:]
                        raise ServerFailed(f"{self.name} does not start: {words}")
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise ServerFailed(
                f"{self.name} does not accept connections within {START_SECONDS:g} s"
            ) from error
        return process


class MosquittoBroker(EmbeddedBroker):
    """Mosquitto with persistence: sessions and queued messages survive a restart; SIGKILL can cost the last
    five seconds of its memory.
    """

    name = "mosquitto"
    durable = True

    def configuration(self) -> tuple[str, str]:
        """The same choices as in `mosquitto/`, on loopback and without accounts."""
        lines = [
            *(["user root"] if os.geteuid() == 0 else []),
            "persistence true",
            f"persistence_location {self._directory}/",
            "autosave_interval 5",
            "max_queued_messages 200000",
            "max_queued_bytes 268435456",
            "max_inflight_messages 0",
            "set_tcp_nodelay true",
            "log_type error",
            "log_type warning",
            f"listener {self._port} 127.0.0.1",
            "allow_anonymous true",
        ]
        return "mosquitto.conf", "\n".join(lines) + "\n"


class RumqttdBroker(EmbeddedBroker):
    """rumqttd: a real MQTT 5 broker that forgets everything when it ends."""

    name = "rumqttd"
    durable = False

    def configuration(self) -> tuple[str, str]:
        """MQTT 5 needs its own file."""
        return "rumqttd.toml", rumqttd_configuration(self._port)


def choose_broker(directory: Path) -> EmbeddedBroker:
    """Mosquitto when it is on this machine. Raises ConfigError when there is no broker at all."""
    mosquitto = shutil.which("mosquitto", path=os.pathsep.join((os.environ.get("PATH", ""), *SEARCH)))
    if mosquitto is not None:
        return MosquittoBroker(directory, [mosquitto, "-c"])
    try:
        import iotcore  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "embedded mode needs a broker: install mosquitto, or pip install 'fieldgate[embedded]'"
        ) from error
    return RumqttdBroker(directory, [sys.executable, "-m", "gateway.embedded.rumqttd"])


def rumqttd_configuration(port: int) -> str:
    """A rumqttd that speaks MQTT 5 on loopback."""
    return f"""id = 0

[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10

[v5.1]
name = "v5"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 2097152
max_inflight_count = 100
dynamic_filters = true
"""


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def port_or_another(preferred: int) -> int:
    """`preferred` on loopback, or a free one when that is taken."""
    for candidate in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            port: int = probe.getsockname()[1]
            return port
    raise ConfigError(f"neither port {preferred} nor any other is free on 127.0.0.1")


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
