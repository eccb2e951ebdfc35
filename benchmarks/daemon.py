"""Owns a `fieldgate run` process: its generated configuration, its start and end, and what the kernel says it
used.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.servers import accepts, end, free_port, wait_until

Tree = Mapping[str, object]


def configuration(
    *, broker_url: str, dsn: str, customers: Sequence[str], port: int, **sections: Tree
) -> dict[str, object]:
    """A whole configuration; `sections` add keys to its sections."""
    base: dict[str, dict[str, object]] = {
        "broker": {"url": broker_url},
        "database": {"dsn": dsn},
        "http": {"listen": f"127.0.0.1:{port}", "public_url": f"http://127.0.0.1:{port}"},
        "security": {"encryption_keys": ["${env:BENCH_KEY}"]},
    }
    for name, keys in sections.items():
        base[name] = {**base.get(name, {}), **keys}
    return {"customers": list(customers), **base}


def postgres_connection(
    name: str,
    customer: str,
    dsn: str,
    meters: Sequence[Tree],
    *,
    interval: str = "1s",
    initial_days: int = 30,
) -> dict[str, object]:
    """A declared connection to the table sink."""
    return {
        "id": name, "customer": customer, "system": "postgres", "credentials": {"type": "dsn", "dsn": dsn},
        "sync": {"interval": interval, "initial_days": initial_days}, "meters": list(meters),
    }  # fmt: skip


class Daemon:
    """One replica. Its log is `<name>.log` in the directory, whatever number of processes it was."""

    launch: ClassVar[Callable[..., Any]] = subprocess.Popen
    """The suite has a faster one (`tests.fixtures.programs`)."""

    def __init__(
        self,
        directory: Path,
        *,
        broker_url: str,
        dsn: str,
        customers: Sequence[str] = ("acme",),
        connections: Sequence[Tree] = (),
        name: str = "daemon",
        root: Path | None = None,
        **sections: Tree,
    ) -> None:
        """`root`: of another checkout, whose daemon it is."""
        self.port = free_port()
        self.name = name
        self.log_path = directory / f"{name}.log"
        self._path = directory / f"{name}.yaml"
        self._process: subprocess.Popen[bytes] | None = None
        content = configuration(
            broker_url=broker_url,
            dsn="${env:BENCH_DATABASE_DSN}",
            customers=customers,
            port=self.port,
            **sections,
        )
        content["replica"] = name
        self._environment = {
            "BENCH_DATABASE_DSN": dsn,
            "BENCH_KEY": "bm90LWEtc2VjcmV0LW9ubHktZm9yLXRocm93LWF3YXktc2VydmVycw==",
        }
        self._root = root
        if root is not None:
            self._environment["PYTHONPATH"] = str(root)
        if connections:
            declared = directory / f"{name}.connections.yaml"
            declared.write_text(
                json.dumps(
                    {"connections": [self._without_secrets(connection) for connection in connections]},
                    indent=1,
                )
            )
            content["connections_file"] = declared.name
        self._path.write_text(json.dumps(content, indent=1))  # JSON is YAML

    def _without_secrets(self, connection: Tree) -> Tree:
        """The connection with its DSN in the environment, where the configuration wants it."""
        credentials = connection.get("credentials")
        if not isinstance(credentials, dict) or "dsn" not in credentials:
            return connection
        variable = f"BENCH_DSN_{len(self._environment)}"
        self._environment[variable] = credentials["dsn"]
        return {**connection, "credentials": {**credentials, "dsn": f"${{env:{variable}}}"}}

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_started(self) -> bool:
        """Whether it ever ran."""
        return self._process is not None

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        assert self._process is not None
        return self._process.poll()

    @property
    def log(self) -> str:
        """All that it wrote."""
        return self.log_path.read_text(errors="replace")

    def start(self) -> None:
        """Starts the process; `ready` waits for it."""
        command = [
            sys.executable,
            "-c",
            "from gateway.cli.main import main; main()",
            "run",
            "--config",
            str(self._path),
        ]
        with self.log_path.open("ab") as log:
            environment = {
                key: value for key, value in os.environ.items() if not key.startswith("FIELDGATE_")
            }
            self._process = self.launch(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environment, **self._environment},
                cwd=self._root,
            )

    async def ready(self, seconds: float = 30.0) -> None:
        """Waits until broker, database and migrations are well. Raises RuntimeError with the log's end when
        the process ended instead.
        """

        async def is_ready() -> bool:
            if self.exit_code is not None:
                raise RuntimeError(f"{self.name} ended with {self.exit_code}: {self.log[-1500:]}")
            return await self.status("/readyz") == 200

        await wait_until(is_ready, seconds=seconds, what=f"{self.name} is ready", every=0.1)

    async def status(self, path: str) -> int:
        """The HTTP status of a path; 0 when nobody answers."""
        return (await asyncio.to_thread(self._get, path))[0]

    async def metrics(self) -> dict[str, float]:
        """The exposition, by `name{labels}`: once it is given, which a daemon that is busy is late with."""
        body = ""

        async def are_given() -> bool:
            nonlocal body
            status, body = await asyncio.to_thread(self._get, "/metrics")
            return status == 200

        await wait_until(are_given, what=f"{self.name} gives its metrics")
        lines = (line.rsplit(" ", 1) for line in body.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    async def stop(self) -> int | None:
        """SIGTERM; the exit code."""
        return await end(self._process, signal.SIGTERM)

    async def kill(self) -> None:
        """SIGKILL: no goodbye to anybody."""
        await end(self._process, signal.SIGKILL)

    def _get(self, path: str) -> tuple[int, str]:
        if not accepts(self.port):
            return 0, ""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except (OSError, urllib.error.URLError):
            return 0, ""


def processes(pid: int) -> list[int]:
    """The process and those that it started: the daemon and the one that answers HTTP."""
    try:
        return [
            pid,
            *(
                int(child)
                for task in Path(f"/proc/{pid}/task").iterdir()
                for child in (task / "children").read_text().split()
            ),
        ]
    except OSError:
        return [pid]


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of its processes so far, by the scheduler's nanoseconds."""
    total = 0
    for process in processes(pid):
        try:
            total += sum(
                int((task / "schedstat").read_text().split()[0])
                for task in Path(f"/proc/{process}/task").iterdir()
            )
        except OSError:
            continue  # one that ended
    return total / 1e9


def tree_seconds(pid: int) -> float:
    """CPU time of a PostgreSQL by its postmaster: of the sessions that there are and those that ended."""
    ticks = 0.0
    for process in processes(pid):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(field) for field in (fields[11:15] if process == pid else fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def peak_memory_bytes(pid: int) -> int:
    """The highest resident sets so far of its processes, added: what they share counts twice."""
    lines = [
        next(
            line
            for line in Path(f"/proc/{process}/status").read_text().splitlines()
            if line.startswith("VmHWM:")
        )
        for process in processes(pid)
    ]
    return sum(int(line.split()[1]) for line in lines) * 1024


class CpuMeter:
    """Samples a process's CPU time every 20 ms, so that any interval can be asked for afterwards (wall-clock
    seconds).
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._times: list[float] = []
        self._seconds: list[float] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> CpuMeter:
        self._task = asyncio.create_task(self._sample())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def between(self, start: float, until: float) -> float:
        """CPU seconds used in the interval."""
        return self._at(until) - self._at(start)

    def _at(self, moment: float) -> float:
        after = min(max(bisect_left(self._times, moment), 1), len(self._times) - 1)
        early, late = self._times[after - 1], self._times[after]
        share = min(max((moment - early) / (late - early), 0.0), 1.0)
        return self._seconds[after - 1] + share * (self._seconds[after] - self._seconds[after - 1])

    async def _sample(self) -> None:
        while True:
            self._seconds.append(cpu_seconds(self._pid))
            self._times.append(time.time())
            await asyncio.sleep(0.02)


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether the signal ends the process no more. Before a program's first line it ends every one."""
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    bit = 1 << (number - 1)
    return bool((int(status["SigCgt"], 16) | int(status["SigIgn"], 16)) & bit)
