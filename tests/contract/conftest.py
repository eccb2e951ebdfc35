"""A real PostgreSQL with passwords, for the contract suite alone: faults here end its sessions and lock its
tables.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.servers import free_port
from connectors.kit.rate_limit import RateLimiter
from connectors.kit.tls import tls_context
from gateway.embedded.postgres import binaries
from tests.contract.sap_servers import NodeServer, node_server
from tests.fixtures.hostile import Respond, Wire

PASSWORD = "not-a-secret"


@pytest.fixture(scope="session")
def contract_dsn() -> Iterator[str]:
    """DSN of a superuser on a server of its own. Not in pytest's folder: that is closed to the other user
    whenever a session starts.
    """
    with tempfile.TemporaryDirectory(prefix="fieldgate-contract-") as name:
        folder = Path(name)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
        if user is not None:
            shutil.chown(folder, user)
            shutil.chown(secret, user)

        initdb = binaries(user)[0]
        pg_ctl = str(Path(initdb).with_name("pg_ctl"))

        def run(*command: str) -> None:
            environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(folder)}
            done = subprocess.run(
                command,
                user=user,
                env=environment,
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{command[0]}: {done.stderr}"

        data = str(folder / "data")
        run(
            initdb,
            "-D",
            data,
            "-U",
            "owner",
            "-A",
            "scram-sha-256",
            f"--pwfile={secret}",
            "-E",
            "UTF8",
            "--no-sync",
        )
        port = free_port()
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        control = (pg_ctl, "-D", data, "-w", "-l", str(folder / "log"))
        run(*control, "-o", options, "start")
        try:
            yield f"postgresql://owner:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            run(*control, "-m", "immediate", "stop")


@pytest.fixture(scope="session")
def node() -> Iterator[NodeServer]:
    """The OData V2 server."""
    problem = ""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(node_server())
        except AssertionError as error:
            problem = str(error)
        else:
            yield server
    if problem:
        pytest.fail(problem, pytrace=False)


@pytest.fixture
def wired(monkeypatch: pytest.MonkeyPatch) -> Callable[[Respond], Wire]:
    """Puts a wire in place of every HTTP client's network."""
    wires: list[Wire] = []
    context = tls_context()
    monkeypatch.setattr("httpx._config.create_ssl_context", lambda *_a, **_k: context)
    monkeypatch.setattr("httpx._transports.default.create_ssl_context", lambda *_a, **_k: context)
    monkeypatch.setattr("httpcore._async.connection_pool.AutoBackend", lambda: wires[-1])
    monkeypatch.setattr("connectors.kit.egress._Judging", lambda *_: wires[-1])

    def put(respond: Respond) -> Wire:
        wires.append(Wire(respond))
        return wires[-1]

    return put


class Hasty(RateLimiter):
    """Counts as ever, and waits for nothing."""

    async def acquire(self, *, max_wait_seconds: float) -> None:
        self._wait_seconds()
        self._tokens -= 1.0


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of two records, so that lists go on; limits of the rate that let everything pass."""
    for name in (
        "kit.sap.records",
        "kit.sap.reader",
        "sap_s4hana.points",
        "sap_s4hana.reader",
        "sap_ecc.connector",
    ):
        monkeypatch.setattr(f"connectors.{name}.PAGE", 2)
    monkeypatch.setattr("connectors.tryton.connector._PAGE", 2)
    monkeypatch.setattr("connectors.tryton.connector._KEYS_PAGE", 2)
    monkeypatch.setattr("connectors.maintainx.connector.limiter_for", lambda *_, **how: Hasty(**how))
