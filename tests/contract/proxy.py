"""A real haproxy on loopback, in front of a system's server: what it does to a call is its configuration."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.servers import accepts, end, free_port, wait_until

# `delivers`: the calls that a push is about. What is asked beforehand (a session, the time, what is held)
# goes through unharmed.
# The hop lets the proxy meet a server that closes or keeps it waiting, before or after the system did the
# work. Behind it `kept`
# keeps its connection, whatever the system does with its own: a hop holds no answer back whose sender has
# left.
_TEMPLATE = """
global
  nbthread 1
  maxconn 100
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tarpit 60s
  retries 0
frontend outside
  bind 127.0.0.1:{port} {tls}
  http-request set-var(txn.delivers) bool(true) if {{ method POST }} !{{ path_end /search_read }}
  acl delivers var(txn.delivers) -m bool
  {frontend}
  use_backend {backend} if delivers
  default_backend system
backend system
  server system 127.0.0.1:{system}
backend no_server
backend relayed
  {relayed}
  server hop 127.0.0.1:{hop}
listen hop
  mode tcp
  bind 127.0.0.1:{hop}
  {hop_lines}
  server kept 127.0.0.1:{kept}
listen kept
  bind 127.0.0.1:{kept}
  server system 127.0.0.1:{system}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """`frontend`, `relayed` and `hop`: lines for these sections; `backend`: where calls that deliver go;
    `tls`: options of the listener.
    """

    frontend: str = ""
    backend: str = "system"
    relayed: str = ""
    hop: str = ""
    tls: str = ""


PLAIN = Mode()


class Proxy:
    """One address for its whole life, whatever runs there at the moment."""

    def __init__(self, folder: Path, system: str) -> None:
        self.port = free_port()
        self._folder, self._system = folder, urlsplit(system)
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, *, tls: bool = False) -> str:
        """The system's address, by way of here."""
        return f"{'https' if tls else 'http'}://localhost:{self.port}{self._system.path}"

    async def start(self, mode: Mode) -> None:
        """In place of what runs; returns when connections are accepted."""
        await self.end()
        binary = shutil.which(
            "haproxy", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin:/opt/homebrew/bin"
        )
        assert binary is not None, "haproxy is not installed: `make packages` says how to get it"
        text = _TEMPLATE.format(
            port=self.port,
            system=self._system.port,
            hop=free_port(),
            kept=free_port(),
            tls=mode.tls,
            frontend=mode.frontend,
            backend=mode.backend,
            relayed=mode.relayed,
            hop_lines=mode.hop,
        )
        configuration, log = self._folder / "haproxy.cfg", self._folder / "haproxy.log"
        configuration.write_text(text)
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [binary, "-db", "-f", str(configuration)], stdout=output, stderr=output
            )
        process = self._process
        await wait_until(
            lambda: process.poll() is not None or accepts(self.port),
            what="haproxy accepts connections",
            every=0.005,
        )
        assert process.poll() is None, log.read_text()

    async def end(self) -> None:
        """SIGKILL: every connection is gone in the same moment."""
        await end(self._process, signal.SIGKILL)
        self._process = None


@asynccontextmanager
async def proxy(folder: Path, system: str, mode: Mode) -> AsyncIterator[Proxy]:
    """In front of the server at the address `system`. Ends with the block."""
    started = Proxy(folder, system)
    try:
        await started.start(mode)
        yield started
    finally:
        await started.end()
