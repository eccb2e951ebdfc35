"""Owns who is compared: how each consumer is started, what its configuration is, where its rows are. The
configurations are the texts in `benchmarks/beside/peers`, the programs are in `build/peers` (`get` puts them
there), and none of them is a dependency.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from benchmarks.daemon import Daemon
from benchmarks.servers import end

HERE = Path(__file__).parent
TEXTS = HERE / "peers"
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "peers"
KEYED = "create table sample (device text, ts bigint, metrics jsonb, primary key (device, ts))"


class Missing(Exception):
    """The program is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The servers of a run, and where a consumer may write."""

    broker_port: int
    dsn: str
    directory: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One program. `table`: what makes its table, where it doesn't itself. `share`: of the backlog, for the slow."""

    title: str
    package: str
    texts: tuple[str, ...]
    command: Callable[[], list[str]]
    version: Callable[[], str]
    acknowledges: str
    table: str = KEYED
    key: str = "device, ts"
    milliseconds: str = "ts"
    share: float = 1.0


def _program(*parts: str) -> str:
    path = BUILD.joinpath(*parts)
    if not path.exists():
        log = BUILD / f"{parts[0] if parts[0] != 'bin' else parts[1]}.log"
        raise Missing(f"not installed: {log.relative_to(ROOT)}" if log.exists() else "not installed")
    return str(path)


def _said(*command: str) -> str:
    answer = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return (answer.stdout or answer.stderr).strip().splitlines()[0]


def _installed(environment: str, package: str) -> Callable[[], str]:
    code = f"from importlib.metadata import version; print(version({package!r}))"

    def version() -> str:
        return _said(
            sys.executable if not environment else _program(environment, "bin", "python"), "-c", code
        )

    return version


def _python(environment: str, text: str) -> Callable[[], list[str]]:
    return lambda: [_program(environment, "bin", "python"), str(TEXTS / text)]


def _aiomqtt(mode: str) -> Callable[[], list[str]]:
    return lambda: [sys.executable, str(TEXTS / "aiomqtt_app.py"), mode]


def _node_red() -> list[str]:
    program = _program("node_red", "node_modules", "node-red", "red.js")
    options = ["--settings", str(TEXTS / "node_red_settings.js"), "--userDir", "{directory}"]
    return ["node", "--max-old-space-size=1024", program, *options, str(TEXTS / "node_red.json")]


PEERS: Mapping[str, Peer] = {
    "telegraf": Peer(
        title="Telegraf, mqtt_consumer to postgresql",
        package="Go module github.com/influxdata/telegraf",
        texts=("telegraf.conf",),
        command=lambda: [_program("bin", "telegraf"), "--config", str(TEXTS / "telegraf.conf")],
        version=lambda: _module("telegraf", "github.com/influxdata/telegraf"),
        acknowledges="after its batch is written",
        table="select 1",
        milliseconds="(extract(epoch from ts) * 1000)::bigint",
    ),
    "bento": Peer(
        title="Bento (Benthos), mqtt to sql_insert",
        package="Go module github.com/warpstreamlabs/bento",
        texts=("bento.yaml", "bento.go"),
        command=lambda: [_program("bin", "bento"), "-c", str(TEXTS / "bento.yaml")],
        version=lambda: _module("bento", "github.com/warpstreamlabs/bento"),
        acknowledges="as its client hands it on",
    ),
    "mq_bridge": Peer(
        title="mq-bridge, mqtt to sqlx",
        package="PyPI mq-bridge",
        texts=("mq_bridge_app.py",),
        command=_python("mq_bridge", "mq_bridge_app.py"),
        version=_installed("mq_bridge", "mq-bridge"),
        acknowledges="after its batch is written",
    ),
    "pathway": Peer(
        title="Pathway with persistence, mqtt to postgres snapshot",
        package="PyPI pathway",
        texts=("pathway_app.py",),
        command=_python("pathway", "pathway_app.py"),
        version=_installed("pathway", "pathway"),
        acknowledges="after a checkpoint",
    ),
    "faststream": Peer(
        title="FastStream with a batching writer",
        package="PyPI faststream[mqtt], asyncpg",
        texts=("faststream_app.py",),
        command=_python("faststream", "faststream_app.py"),
        version=_installed("faststream", "faststream"),
        acknowledges="after its batch is committed",
    ),
    "node_red": Peer(
        title="Node-RED with a batching flow",
        package="npm node-red, pg",
        texts=("node_red.json", "node_red_settings.js"),
        command=_node_red,
        version=lambda: _said("node", "-p", f"require('{_program('node_red', 'node_modules', 'node-red', 'package.json')}').version"),
        acknowledges="at receipt",
    ),
    "aiomqtt_executemany": Peer(
        title="aiomqtt and asyncpg, executemany",
        package="PyPI aiomqtt, asyncpg",
        texts=("aiomqtt_app.py",),
        command=_aiomqtt("executemany"),
        version=_installed("", "aiomqtt"),
        acknowledges="at receipt",
    ),
    "aiomqtt_rows": Peer(
        title="aiomqtt and asyncpg, a row at a time",
        package="PyPI aiomqtt, asyncpg",
        texts=("aiomqtt_app.py",),
        command=_aiomqtt("rows"),
        version=_installed("", "aiomqtt"),
        acknowledges="at receipt",
        share=0.2,
    ),
}  # fmt: skip

ABSENT = {
    "ThingsBoard IoT Gateway": "PyPI has it (3.8.5), but a ThingsBoard platform is all that it writes to: there is no table to count in",
    "Redpanda Connect": "its modules are not under a free licence, and the core of Benthos that is has neither MQTT nor SQL: Bento, the free fork with both, stands in",
    "EMQX's rules with a PostgreSQL sink": "not in a package registry that can be reached; brokers that are (docs/brokers.md) have no such rules",
}
"""Who was looked for and isn't measured, and why."""


def _module(program: str, module: str) -> str:
    """The version of the module that a Go program was built from."""
    lines = subprocess.run(
        ["go", "version", "-m", _program("bin", program)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return next(line.split()[2] for line in lines if len(line.split()) > 2 and line.split()[1] == module)


class Ours:
    """Fieldgate, by the text in `peers/fieldgate.yaml`."""

    name = "fieldgate"
    title = "Fieldgate"
    filter = "acme/devices/+/telemetry"
    topic = "acme/devices/{device}/telemetry"
    count = "select count(*), count(distinct (device_id, ts)) from telemetry where ts > timestamptz 'epoch' + $1::bigint * interval '1 millisecond' and ts <= timestamptz 'epoch' + $2::bigint * interval '1 millisecond'"
    commits = "select pg_xact_commit_timestamp(xmin) as at, (extract(epoch from ts) * 1000)::bigint as sent from telemetry where ts > timestamptz 'epoch' + $1::bigint * interval '1 millisecond' and ts <= timestamptz 'epoch' + $2::bigint * interval '1 millisecond'"
    share = 1.0
    texts = ("fieldgate.yaml",)

    def __init__(self, place: Place) -> None:
        self._daemon = Daemon(
            place.directory,
            broker_url=f"mqtt://127.0.0.1:{place.broker_port}",
            dsn=place.dsn,
            logging={"level": "error"},
            **yaml.safe_load((TEXTS / self.texts[0]).read_text()),
        )

    def start(self) -> None:
        self._daemon.start()

    async def prepare(self) -> None:
        """Its session and its tables, by a first start."""
        self._daemon.start()
        try:
            await self._daemon.ready(120)
        finally:
            await self._daemon.stop()

    @property
    def pid(self) -> int:
        return self._daemon.pid

    @property
    def is_running(self) -> bool:
        return self._daemon.is_started and self._daemon.exit_code is None

    async def stop(self) -> None:
        await self._daemon.stop()

    async def kill(self) -> None:
        await self._daemon.kill()


class Theirs:
    """A peer as a process."""

    def __init__(self, name: str, place: Place) -> None:
        self.name, self._peer, self._place = name, PEERS[name], place
        self.title, self.share = self._peer.title, self._peer.share
        self.filter, self.topic = f"{name}/machine/+/telemetry", f"{name}/machine/{{device}}/telemetry"
        where = f"from sample where {self._peer.milliseconds} > $1::bigint and {self._peer.milliseconds} <= $2::bigint"
        self.count = f"select count(*), count(distinct ({self._peer.key})) {where}"
        self.commits = (
            f"select pg_xact_commit_timestamp(xmin) as at, {self._peer.milliseconds} as sent {where}"
        )
        self._command = self._peer.command()
        self._directory = place.directory / name
        self._process: subprocess.Popen[bytes] | None = None

    def clear(self) -> None:
        """Forgets what it kept in files, with its session and its table."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir()

    @property
    def table(self) -> str:
        """Statements that make its table."""
        return self._peer.table

    @property
    def log(self) -> Path:
        """What it wrote."""
        return self._place.directory / f"{self.name}.log"

    def start(self) -> None:
        where = urlsplit(self._place.dsn)
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("FIELDGATE_")},
            "PEER_BROKER_PORT": str(self._place.broker_port),
            "PEER_CLIENT": self.name,
            "PEER_FILTER": self.filter,
            "PEER_DSN": self._place.dsn,
            "PEER_DATABASE_PORT": str(where.port),
            "PEER_DATABASE": where.path[1:],
            "PEER_DIRECTORY": str(self._directory),
            "PEER_MODULES": str(BUILD / "node_red" / "node_modules"),
        }
        command = [part.format(directory=self._directory) for part in self._command]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self._directory,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def stop(self) -> None:
        with contextlib.suppress(TimeoutError):  # it was killed
            await end(self._process, signal.SIGTERM, seconds=20)
        self._process = None

    async def kill(self) -> None:
        await end(self._process, signal.SIGKILL)


Consumer = Ours | Theirs
