"""A throw-away Patroni cluster on loopback: etcd and two nodes with the wheel's PostgreSQL, configured as
docs/high-availability.md says.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.daemon import processes
from benchmarks.servers import Postgres, accepts, end, free_port, wait_until
from gateway.embedded.account import STATE
from gateway.embedded.postgres import binaries

ROOT = Path(__file__).parents[1]
BUILT = ROOT / "build"
SYSTEM_PYTHON = "/usr/bin/python3"
"""PostgreSQL's account can run it, wherever ours lies."""

NODES = ("db1", "db2")
PASSWORD = "postgres"


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """How Patroni is started, with which modules, and where etcd is."""

    patroni: Sequence[str]
    modules: str
    etcd: str


def programs() -> Programs | None:
    """As `make patroni` puts them, or as they are installed; None where either is missing."""
    etcd = shutil.which("etcd", path=os.pathsep.join((str(BUILT / "etcd/usr/bin"), os.environ["PATH"])))
    if etcd is None:
        return None
    for modules in (STATE / "patroni", BUILT / "patroni"):
        if modules.exists():
            python = SYSTEM_PYTHON if Path(SYSTEM_PYTHON).exists() else sys.executable
            return Programs(patroni=(python, "-m", "patroni"), modules=str(modules), etcd=etcd)
    installed = shutil.which("patroni")
    return None if installed is None else Programs(patroni=(installed,), modules="", etcd=etcd)


def documented() -> dict[str, Any]:
    """The configuration of a node as the page shows it."""
    text = (ROOT / "docs/high-availability.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    found: dict[str, Any] = yaml.safe_load(next(block for block in blocks if "scope:" in block))
    return found


@dataclass(slots=True)
class Node:
    """One database machine: Patroni and the PostgreSQL that it runs."""

    name: str
    directory: Path
    port: int = field(default_factory=free_port)
    rest: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def configure(self, etcd_port: int, bin_dir: Path) -> None:
        """Only what names a machine differs from the page."""
        content = documented()
        content |= {
            "name": self.name,
            "restapi": dict.fromkeys(("listen", "connect_address"), f"127.0.0.1:{self.rest}"),
            "etcd3": {"hosts": [f"127.0.0.1:{etcd_port}"]},
        }
        accounts = content["postgresql"]["authentication"]
        content["postgresql"] |= {
            **dict.fromkeys(("listen", "connect_address"), f"127.0.0.1:{self.port}"),
            "data_dir": str(self.directory / "data"),
            "bin_dir": str(bin_dir),
            "pgpass": str(self.directory / "pgpass"),
            "authentication": {role: {**account, "password": PASSWORD} for role, account in accounts.items()},
            "pg_hba": [
                line.replace("10.0.0.0/24", "127.0.0.1/32") for line in content["postgresql"]["pg_hba"]
            ],
            "parameters": {"unix_socket_directories": str(self.directory)},
        }
        (self.directory / "patroni.yaml").write_text(yaml.safe_dump(content))

    def start(self, found: Programs) -> None:
        """Starts Patroni, which starts PostgreSQL."""
        user = Postgres.user()
        with (self.directory / "patroni.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*found.patroni, str(self.directory / "patroni.yaml")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True,
                user=user, extra_groups=[] if user else None, env={"PATH": os.environ["PATH"], "HOME": str(self.directory), "PYTHONPATH": found.modules},
            )  # fmt: skip

    async def kill(self) -> None:
        """As when the machine loses power: Patroni and every process of PostgreSQL at once."""
        assert self.process is not None
        ended = processes(self.process.pid)
        postmaster = self.directory / "data/postmaster.pid"
        if postmaster.exists():
            ended += processes(int(postmaster.read_text().splitlines()[0]))
        for pid in ended:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await end(self.process, signal.SIGKILL)

    async def state(self) -> dict[str, Any]:
        """What its REST interface says; empty while it does not answer."""
        return await asyncio.to_thread(self._state)

    def _state(self) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.rest}/patroni", timeout=3) as answer:
                said: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            return dict(json.load(error))
        except (OSError, ValueError):
            return {}
        return said

    def is_synchronous(self) -> bool:
        """Whether it is the standby that has everything, as the cluster knows."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.rest}/sync", timeout=3) as answer:
                return bool(answer.status == 200)
        except OSError:  # HTTPError is one
            return False


class Cluster:
    """One leader, one synchronous standby. What is killed here comes back by Patroni's own hand."""

    def __init__(self) -> None:
        found = programs()
        if found is None:
            raise FileNotFoundError("Patroni and etcd are needed: make patroni")
        self._programs = found
        self._root = Path(tempfile.mkdtemp(prefix="fg-patroni-"))
        self._etcd_port = free_port()
        self._etcd_process: subprocess.Popen[bytes] | None = None
        self.nodes = [Node(name, self._root / name) for name in NODES]

    def dsn(self, database: str) -> str:
        """Of both nodes, in their order, whichever leads."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"postgresql://postgres:{PASSWORD}@{hosts}/{database}?target_session_attrs=read-write"

    async def start(self) -> None:
        """Returns when one leads and the other follows in step."""
        user = Postgres.user()
        self._root.chmod(0o711)
        peer = free_port()
        url, peers = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{peer}"
        with (self._root / "etcd.log").open("wb") as log:
            self._etcd_process = subprocess.Popen(
                [self._programs.etcd, "--data-dir", str(self._root / "etcd"), "--listen-client-urls", url, "--advertise-client-urls", url,
                 "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True,
            )  # fmt: skip
        await wait_until(lambda: accepts(self._etcd_port), what="etcd accepts connections")
        bin_dir = Path(binaries(user)[1]).parent
        for node in self.nodes:
            node.directory.mkdir(mode=0o700)
            if user is not None:
                shutil.chown(node.directory, user)
            node.configure(self._etcd_port, bin_dir)
            (node.directory / "patroni.yaml").chmod(0o644)
            node.start(self._programs)
            await wait_until(
                lambda node=node: self._runs(node),
                seconds=120, what=f"{node.name} runs", every=0.5,
            )  # fmt: skip
        await self.in_step()

    async def leader(self) -> Node:
        """Whoever leads now. Raises TimeoutError when nobody does within a minute and a half."""
        found: list[Node] = []

        async def is_there() -> bool:
            found[:] = [
                node for node in self.nodes if (await node.state()).get("role") in ("primary", "master")
            ]
            return len(found) == 1

        await wait_until(is_there, seconds=90, what="one node leads", every=0.2)
        return found[0]

    async def in_step(self) -> None:
        """Returns when a node may be promoted: the leader waits for it at each commit, and the cluster has
        noted so.
        """

        async def may_be_promoted() -> bool:
            return any([await asyncio.to_thread(node.is_synchronous) for node in self.nodes])

        await wait_until(may_be_promoted, seconds=180, what="the standby is synchronous", every=0.5)

    def restart(self, node: Node) -> None:
        """The machine is switched on again: nobody but Patroni touches its data."""
        node.start(self._programs)

    @property
    def log(self) -> str:
        """The ends of what the nodes wrote."""
        logs = [node.directory / "patroni.log" for node in self.nodes]
        return "\n".join(log.read_text()[-1500:] for log in logs if log.exists())

    async def stop(self) -> None:
        """Ends everything and removes it."""
        for node in self.nodes:
            if node.process is not None:
                await node.kill()
        await end(self._etcd_process, signal.SIGKILL)
        shutil.rmtree(self._root, ignore_errors=True)

    @staticmethod
    async def _runs(node: Node) -> bool:
        return (await node.state()).get("state") in ("running", "streaming")
