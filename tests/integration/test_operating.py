"""The operating commands on a real database, in this process; where a gateway has to run beside them, its
engine does.
"""

from __future__ import annotations

import asyncio
import io
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.servers import wait_until
from gateway import clock
from gateway.cli import screen
from gateway.cli.main import build
from gateway.cli.operate import operating
from gateway.cli.screen import Column, show
from gateway.cli.sync import ending
from gateway.model.connection import State
from gateway.model.errors import ConfigError, RequestRefused, StoreError
from gateway.model.sample import to_microseconds
from gateway.model.status import ConnectionStatus, Progress, StreamStatus
from gateway.store.dead_messages import DeadMessage
from gateway.store.pool import Database
from gateway.store.telemetry import TelemetryStore

ROOT = Path(__file__).parents[2]
KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
METER = {"device": "pump-*", "metric": "t", "meter": "{device}-T", "reduce": "last", "every": "1s"}


@dataclass
class Shell:
    """A folder with a configuration, and the command line in it."""

    folder: Path
    dsn: str
    sink: str
    connections: list[dict[str, Any]] = field(default_factory=list)
    customers: tuple[str, ...] = ("acme", "globex")

    @property
    def config(self) -> Path:
        return self.folder / "fieldgate.yaml"

    def declare(self, *names: str, **changes: Any) -> None:
        """Connections of acme, unless `customer` says otherwise."""
        self.connections = [
            {
                "id": name,
                "customer": "acme",
                "system": "postgres",
                "hosting": "on_premises",
                "settings": {"table": f"reading_{name.replace('-', '_')}"},
                "credentials": {"type": "dsn", "dsn": "${file:sink}"},
                "sync": {"interval": "1s", "lateness": "1ms", "initial_days": 1},
                "meters": [METER],
                **changes,
            }
            for name in names
        ]

    def run(self, *arguments: str, input: str | None = None) -> Result:
        main = {
            "customers": list(self.customers),
            "connections_file": "connections.yaml",
            "database": {"dsn": "${file:dsn}"},
            "security": {"encryption_keys": ["${file:key}"]},
            "credits": {"capacity": 10_000},
        }
        for name, secret in (
            ("key", KEY),
            ("dsn", self.dsn),
            ("sink", self.sink),
            ("sink_again", self.sink + "?application_name=other"),
        ):
            (self.folder / name).write_text(secret)
        self.config.write_text(json.dumps(main))
        (self.folder / "connections.yaml").write_text(json.dumps({"connections": self.connections}))
        return CliRunner().invoke(build(arguments), [*arguments, "--config", str(self.config)], input=input)

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.exit_code == 0, (done.output, done.exception)
        return json.loads(done.stdout)

    def refused(self, *arguments: str) -> BaseException:
        done = self.run(*arguments)
        assert done.exception is not None, done.output
        return done.exception

    async def execute(self, sql: str, *values: object) -> None:
        connection = await asyncpg.connect(self.dsn)
        try:
            await connection.execute(sql, *values)
        finally:
            await connection.close()


@pytest.fixture
def shell(tmp_path: Path, dsn: str, empty_dsn: str) -> Shell:
    return Shell(tmp_path, dsn, empty_dsn)


@asynccontextmanager
async def gateway(shell: Shell) -> AsyncIterator[None]:
    """The engine of a replica."""
    async with operating(shell.config) as operator:
        tasks = [asyncio.create_task(loop, name=name) for name, loop in operator.engine.loops().items()]
        try:
            yield
        finally:
            await operator.engine.scheduler.stop(5)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


# apply


def test_a_plan_is_shown_carried_out_and_then_empty(shell: Shell) -> None:
    shell.declare("acme-1", "acme-2")
    dry = shell.run("apply", "--dry-run")
    assert dry.exit_code == 0, (dry.output, dry.exception)
    assert [line.split() for line in dry.stdout.splitlines()] == [
        ["+", "acme-1", "create"],
        ["+", "acme-2", "create"],
        ["2", "to", "create"],
    ]
    assert shell.json("connections", "list") == []
    done = shell.run("apply")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "done: 2 of 2")
    assert [found["state"] for found in shell.json("connections", "list")] == ["verifying", "verifying"]
    assert shell.run("apply").stdout == "nothing to do: 2 unchanged\n"


def test_a_change_names_its_parts_and_touches_nothing_else(shell: Shell) -> None:
    shell.declare("acme-1", "acme-2")
    shell.run("apply")
    shell.connections[0] |= {"meters": [METER | {"every": "5s"}], "sync": {"interval": "2s"}}
    shell.connections[1] |= {"credentials": {"type": "dsn", "dsn": "${file:sink_again}"}}
    planned = shell.json("apply", "--dry-run")
    assert (
        planned["change"] == {"acme-1": ["sync", "meters"], "acme-2": ["credentials"]}
        and planned["applied"] is False
    )
    assert shell.json("apply")["applied"] is True
    assert shell.json("apply", "--dry-run")["unchanged"] == ["acme-1", "acme-2"]


def test_a_file_elsewhere_can_be_applied(shell: Shell) -> None:
    shell.declare("acme-1")
    shell.run("check")
    other = shell.folder / "elsewhere.yaml"
    other.write_text((shell.folder / "connections.yaml").read_text().replace("acme-1", "acme-9"))
    assert shell.json("apply", "-f", str(other))["create"] == ["acme-9"]


async def test_only_what_a_file_made_is_pruned(shell: Shell) -> None:
    shell.declare("acme-1", "acme-2", "acme-3")
    await asyncio.to_thread(shell.run, "apply")
    await shell.execute("update connection set managed_by = 'api' where connection_id = 'acme-3'")
    shell.declare("acme-1")
    assert (await asyncio.to_thread(shell.json, "apply", "--dry-run"))["prune"] == []
    done = await asyncio.to_thread(shell.json, "apply", "--prune", "--yes")
    assert (done["prune"], done["failed"]) == (["acme-2"], {})
    states = {
        found["connection"]: found["state"]
        for found in await asyncio.to_thread(shell.json, "connections", "list")
    }
    assert states == {"acme-1": "verifying", "acme-2": "disconnecting", "acme-3": "verifying"}
    again = await asyncio.to_thread(shell.run, "apply", "--prune", "--yes")
    assert again.stdout == "nothing to do: 1 unchanged\n"


def test_whoever_sits_at_a_terminal_is_asked_before_something_ends(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.declare("acme-1", "acme-2")
    shell.run("apply")
    shell.declare("acme-1", sync={"interval": "9s"})
    monkeypatch.setattr(screen, "is_interactive", lambda: True)
    declined = shell.run("apply", "--prune", input="n\n")
    assert declined.exit_code == 1 and "Disconnect 1 connection? This cannot be undone." in declined.stderr
    assert shell.run("connections", "disconnect", "acme-1", input="n\n").exit_code == 1
    assert [found["state"] for found in shell.json("connections", "list")] == ["verifying", "verifying"]
    assert shell.json("apply", "--dry-run")["change"] == {"acme-1": ["sync"]}, "nothing of the plan was done"
    assert shell.run("apply", "--prune", "--yes").exit_code == 0
    assert [found["state"] for found in shell.json("connections", "list")] == ["verifying", "disconnecting"]


def test_a_connection_stays_with_its_customer_and_its_system(shell: Shell) -> None:
    shell.declare("acme-1")
    shell.run("apply")
    shell.declare("acme-1", customer="globex")
    error = shell.refused("apply")
    assert isinstance(
        error, ConfigError
    ) and "'acme-1' belongs to customer 'acme', which never changes" in str(error)


def test_what_is_refused_does_not_keep_the_others(shell: Shell) -> None:
    shell.declare("acme-1")
    shell.run("apply")
    shell.run("connections", "disconnect", "acme-1", "--yes")
    shell.declare("acme-1", "acme-2")
    done = shell.run("apply")
    assert done.exit_code == 1
    assert "! acme-1  it was disconnected, which cannot be undone" in done.stdout
    assert [found["connection"] for found in shell.json("connections", "list", "--all")] == [
        "acme-1",
        "acme-2",
    ]


# connections


def test_no_connection_is_said_in_words(shell: Shell) -> None:
    assert "no connections" in shell.run("connections", "list").stdout


async def test_a_list_is_whole_and_aligned_with_one_and_with_three_hundred(shell: Shell) -> None:
    shell.declare("acme-1")
    await asyncio.to_thread(shell.run, "apply")
    one = (await asyncio.to_thread(shell.run, "connections", "list")).stdout.splitlines()
    assert one[-1] == "1 connection: 1 verifying" and len(one) == 4
    await shell.execute(
        "insert into connection (connection_id, customer_id, system, hosting, tier, state, declared_digest,"
        " reason) select 'c-' || lpad(n::text, 3, '0'), 'acme', 'postgres', 'cloud', 1, case when n % 10 = 0"
        " then 'blocked' else 'active' end, '', 'why' from generate_series(1, 299) n"
    )
    lines = (await asyncio.to_thread(shell.run, "connections", "list")).stdout.splitlines()
    assert len(lines) == 303 and lines[-1] == "300 connections: 1 verifying, 270 active, 29 blocked"
    assert {line.index("postgres") for line in lines[1:301]} == {lines[0].index("system")}
    assert (await asyncio.to_thread(shell.json, "connections", "list", "--customer", "globex")) == []


def test_a_connection_is_shown_paused_resumed_and_ended(shell: Shell) -> None:
    shell.declare("acme-1")
    shell.run("apply")
    shown = shell.run("connections", "show", "acme-1").stdout
    assert (
        "customer acme" in " ".join(shown.split())
        and "verifying" in shown
        and "credentials_given" not in shown
    )
    assert shell.json("connections", "show", "acme-1")["issues"] == []
    assert shell.run("connections", "disconnect", "acme-1", "--yes").stdout == "acme-1 is disconnecting\n"
    error = shell.refused("connections", "pause", "acme-1")
    assert isinstance(error, RequestRefused) and error.code == "connection.disconnected"


def test_a_connection_that_there_is_not_is_refused(shell: Shell) -> None:
    for command in ("show", "pause", "resume", "recheck", "disconnect", "reauthorize"):
        error = shell.refused("connections", command, "nobodys")
        assert isinstance(error, RequestRefused) and error.code == "request.not_found", command


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("devices", "list", "--customer", "acmee"), "there is no customer 'acmee'; did you mean 'acme'?"),
        (("devices", "show", "acmee", "pump-1"), "there is no customer 'acmee'; did you mean 'acme'?"),
        (("alerts", "--customer", "acmee"), "there is no customer 'acmee'; did you mean 'acme'?"),
        (("alerts", "--connection", "nosuch"), "there is no connection 'nosuch'"),
        (("connections", "pause", "acme-2"), "there is no connection 'acme-2'; did you mean 'acme-1'?"),
        (("connections", "resume", "acme-2"), "there is no connection 'acme-2'; did you mean 'acme-1'?"),
        (
            ("dead-letters", "replay", "--connection", "acme-2"),
            "there is no connection 'acme-2'; did you mean 'acme-1'?",
        ),
    ],
)
def test_a_name_that_there_is_not_is_no_empty_list(
    shell: Shell, arguments: tuple[str, ...], said: str
) -> None:
    shell.declare("acme-1")
    shell.run("apply")
    refused = shell.refused(*arguments)
    assert isinstance(refused, RequestRefused) and str(refused).startswith(said)


async def test_a_device_that_there_is_not_is_said_with_what_is_near(shell: Shell) -> None:
    await shell.execute("insert into customer values ('acme') on conflict do nothing")
    await shell.execute("insert into device (customer_id, device_id, revision) values ('acme', 'pump-1', 1)")
    for name, said in (("pump-l", "did you mean 'pump-1'?"), ("zzz", "`fieldgate devices list")):
        refused = await asyncio.to_thread(shell.refused, "devices", "show", "acme", name)
        assert isinstance(refused, RequestRefused) and said in str(refused)


def test_a_reconnect_link_is_printed_alone(shell: Shell) -> None:
    shell.declare("acme-1")
    shell.run("apply")
    done = shell.run("connections", "reauthorize", "acme-1")
    assert done.stdout.startswith("http://127.0.0.1:8080/reauthorize/") and len(done.stdout.splitlines()) == 1
    assert "good once" in done.stderr


@pytest.mark.parametrize(
    "command",
    ["connections list", "devices list", "alerts", "incidents", "keys", "keys rotate", "credits", "events"],
)
def test_a_database_without_its_migrations_is_said(shell: Shell, command: str) -> None:
    shell.dsn, shell.sink = shell.sink, shell.dsn
    error = shell.refused(*command.split())
    assert isinstance(error, StoreError) and "fieldgate migrate" in str(error)


# sync


async def in_state(shell: Shell, connection: str, state: str) -> None:
    async def holds() -> bool:
        return bool(
            (await asyncio.to_thread(shell.json, "connections", "show", connection))["state"] == state
        )

    await wait_until(holds, what=f"{connection} is {state}")


async def test_a_sync_is_waited_for(shell: Shell, database: Database) -> None:
    shell.declare("acme-1")
    await asyncio.to_thread(shell.run, "apply")
    async with gateway(shell):
        await in_state(shell, "acme-1", "active")
        now = clock.now()
        samples = [
            (("acme", "pump-1", to_microseconds(now - timedelta(minutes=minute))), {"t": float(minute)}, 0)
            for minute in range(2, 30)
        ]
        await TelemetryStore(database, register_customers=False).write(samples, ())
        done = await asyncio.to_thread(shell.run, "sync", "acme-1")
        assert (done.exit_code, done.exception) == (0, None)
        assert done.stdout.startswith("acme-1 sync completed: ") and done.stdout.endswith("refused\n")
        full = await asyncio.to_thread(shell.json, "sync", "acme-1", "--full", "--yes")
        assert (full["mode"], full["outcome"], full["rejected"]) == ("full", "completed", 0)
        asked = await asyncio.to_thread(shell.json, "sync", "acme-1", "--no-wait")
        assert asked["outcome"] == "asked"
        await asyncio.to_thread(shell.run, "connections", "pause", "acme-1")
        error = await asyncio.to_thread(shell.refused, "sync", "acme-1")
        assert isinstance(error, RequestRefused) and error.code == "connection.paused"
        await asyncio.to_thread(shell.run, "connections", "resume", "acme-1")
        await in_state(shell, "acme-1", "active")


async def test_leaving_a_sync_leaves_it_running(shell: Shell) -> None:
    shell.declare("acme-1")
    await asyncio.to_thread(shell.run, "apply")
    await shell.execute("update connection set state = 'active'")
    arguments = ("-m", "gateway", "sync", "acme-1", "--config", str(shell.config))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # As at a terminal: tests that a shell began in the background would hand down a SIGINT that is
        # ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    assert b"no gateway is running" in await process.stderr.readline()
    process.send_signal(signal.SIGINT)
    output, errors = await process.communicate()
    assert (process.returncode, output) == (130, b"")
    assert b"it goes on without us" in errors and b"Traceback" not in errors


def status(
    state: State,
    *,
    fraction: float | None = None,
    waiting: int = 0,
    stream: Any = "idle",
    success: datetime | None = None,
) -> ConnectionStatus:
    at = datetime(2026, 5, 4, tzinfo=UTC)
    progress = None
    if fraction is not None:
        progress = Progress(
            fraction=fraction,
            start=at,
            until=at,
            cursor=at,
            pending_readings=waiting,
            estimated_seconds=None,
            clipped_to_days=None,
        )
    flow = StreamStatus(
        name="readings",
        direction="outbound",
        phase="initial",
        state=stream,
        watermark="",
        lag_seconds=0.0,
        progress=progress,
    )
    return ConnectionStatus(
        connection="c", customer="acme", system="s", hosting="cloud", tier=1, credits=1, state=state, reason="why", since=at, version=1,
        delivery="exactly_once", last_success_at=success, next_run_at=None, pending=0, dead_letters=0, streams=(flow,), incident=None, request_id=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("now", "full", "outcome"),
    [
        (status(State.ACTIVE), False, None),
        (status(State.ACTIVE, success=datetime(2026, 5, 4, tzinfo=UTC)), False, "completed"),
        (status(State.DEGRADED), False, None),
        (status(State.BLOCKED), False, "stopped"),
        (status(State.ACTIVE, stream="failed"), False, None),
        (status(State.DEGRADED, stream="failed"), False, "failed"),
        (status(State.ACTIVE, fraction=0.5), True, None),
        (status(State.ACTIVE, fraction=0.5, success=datetime(2026, 5, 4, tzinfo=UTC)), True, None),
        (status(State.ACTIVE, fraction=1.0, waiting=3), True, None),
        (status(State.ACTIVE, fraction=1.0), True, "completed"),
    ],
)
def test_how_a_sync_ends(now: ConnectionStatus, full: bool, outcome: str | None) -> None:
    found = ending(status(State.ACTIVE), now, full=full)
    assert (found and found[0]) == outcome


@pytest.mark.parametrize("width", [40, 80, 110, 160, 240])
def test_a_table_fits_its_terminal(width: int) -> None:
    columns = (
        Column(name="connection"),
        Column(name="state"),
        Column(name="a", drop=1),
        Column(name="b", drop=2, numbers=True),
        Column(name="reason", free=True),
    )
    output = io.StringIO()
    rows = [(f"acme-{number}", "active", "x" * 30, "1" * 30, "why " * 40) for number in range(3)]
    show(Console(file=output, width=width), columns, rows)
    lines = output.getvalue().splitlines()
    assert len(lines) == 4 and all(len(line.rstrip()) <= width for line in lines)
    assert all(f"acme-{number}" in lines[1 + number] and "active" in lines[1 + number] for number in range(3))
    assert ("x" * 30 in lines[1], "1" * 30 in lines[1], "why" in lines[1]) == {
        40: (False, False, False), 80: (True, False, False), 110: (True, True, True), 160: (True, True, True), 240: (True, True, True)
    }[width]  # fmt: skip


# token


def test_of_tokens_of_one_name_an_id_says_which_is_revoked(shell: Shell) -> None:
    ids = {}
    for whose in ("acme", "globex"):
        made = shell.run("token", "create", "--role", "viewer", "--name", "ci", "--customer", whose, "--json")
        ids[whose] = json.loads(made.stdout)["id"]
    refused = str(shell.refused("token", "revoke", "ci", "--yes"))
    assert all(f"{id_} ({whose})" in refused for whose, id_ in ids.items())
    assert shell.run("token", "revoke", ids["acme"], "--yes").exit_code == 0
    assert shell.run("token", "revoke", "ci", "--yes").exit_code == 0, "the only one that is left"


def test_a_token_is_shown_once_listed_and_revoked(shell: Shell) -> None:
    assert "no tokens" in shell.run("token", "list").stdout
    made = shell.run(
        "token", "create", "--role", "operator", "--customer", "acme", "--name", "ci", "--expires", "90d"
    )
    assert made.exit_code == 0, (made.output, made.exception)
    secret = made.stdout.strip()
    assert secret.startswith("fg_") and "ci: operator of customer acme" in made.stderr
    [listed] = shell.json("token", "list")
    assert (listed["name"], listed["role"], listed["customer"], listed["revoked_at"]) == (
        "ci",
        "operator",
        "acme",
        None,
    )
    assert secret not in shell.run("token", "list").output
    again = ("token", "create", "--role", "viewer", "--name", "ci", "--customer", "acme")
    assert isinstance(shell.refused(*again), RequestRefused)
    assert shell.run("token", "revoke", "ci", "--yes").stdout == "ci is revoked\n"
    assert isinstance(shell.refused("token", "revoke", "ci", "--yes"), RequestRefused)
    assert isinstance(shell.refused("token", "create", "--role", "viewer", "--customer", "a/b"), ConfigError)
    assert isinstance(shell.refused("token", "create", "--role", "viewer", "--expires", "soon"), ConfigError)


# dead-letters


async def bury(database: Database, topic: str, payload: bytes, reason: str) -> None:
    await TelemetryStore(database, register_customers=False).write(
        [], [DeadMessage(topic=topic, payload=payload, reason=reason, detail="because")]
    )


async def count(database: Database, table: str) -> int:
    async with database.connection() as connection:
        found: int = await connection.fetchval(f"select count(*) from {table}")
    return found


async def in_thread(call: Callable[..., Any], *arguments: str) -> Any:
    return await asyncio.to_thread(call, *arguments)


async def test_a_dead_message_is_decoded_again_once_its_customer_is_known(
    shell: Shell, database: Database
) -> None:
    shell.customers = ("acme",)
    await in_thread(shell.run, "connections", "list")
    await bury(database, "globex/devices/pump-1/telemetry", b'[{"t": 1}, {"t": 2}]', "unknown_customer")
    await bury(database, "acme/devices/pump-1/telemetry", b"{", "invalid_json")
    listed = await in_thread(shell.json, "dead-letters", "list")
    assert [(found["kind"], found["topic"], found["reason"]) for found in listed] == [
        ("message", "acme/devices/pump-1/telemetry", "invalid_json"),
        ("message", "globex/devices/pump-1/telemetry", "unknown_customer"),
    ]
    ids = [str(found["id"]) for found in listed]
    refused = await in_thread(shell.run, "dead-letters", "replay", *ids)
    assert (
        refused.exit_code == 1
        and "0 dead letters replayed" in refused.stdout
        and "unknown_customer" in refused.stdout
    )
    assert await count(database, "dead_letter") == 2
    shell.customers = ("acme", "globex")
    async with database.connection() as connection:
        await connection.execute(
            "insert into customer (customer_id) values ('globex') on conflict do nothing"
        )
    done = await in_thread(shell.run, "dead-letters", "replay", *ids)
    assert "1 dead letter replayed" in done.stdout
    async with database.connection() as connection:
        rows = await connection.fetch("select customer_id, device_id, metrics, ts from telemetry order by ts")
        first_at = await connection.fetchval("select first_at from dead_letter")
    assert [(row["customer_id"], row["metrics"]) for row in rows] == [
        ("globex", {"t": 1}),
        ("globex", {"t": 2}),
    ]
    assert abs(rows[0]["ts"] - first_at) < timedelta(seconds=60)
    assert [found["reason"] for found in await in_thread(shell.json, "dead-letters", "list")] == [
        "invalid_json"
    ]


async def test_a_dead_reading_is_due_again_with_no_attempts_counted(shell: Shell, database: Database) -> None:
    shell.declare("acme-1")
    await in_thread(shell.run, "apply")
    async with database.connection() as connection:
        await connection.execute(
            "insert into meter_mapping (connection_id, meter, device_id, metric, reduce, span) values"
            " ('acme-1', 'm', 'd', 't', 'last', '1 min')"
        )
        await connection.execute(
            "insert into dead_letter (kind, digest, customer_id, connection_id, meter, window_start, reason,"
            " detail) values ('reading', '1', 'acme', 'acme-1', 'm', '2026-05-04T12:00Z', 'rejected', 'no"
            " such meter'),('reading', '2', 'acme', 'acme-1', 'gone', '2026-05-04T12:00Z', 'rejected', 'no"
            " such meter')"
        )
        await connection.execute("select ensure_partition('telemetry', '2026-05-04')")
        await connection.execute(
            "insert into telemetry (customer_id, device_id, ts, metrics, received_at, revision) values"
            " ('acme', 'd', '2026-05-04T12:00Z', '{\"t\": 1}', now(), 0)"
        )
    listed = {
        found["meter"]: found
        for found in await in_thread(shell.json, "dead-letters", "list", "--connection", "acme-1")
    }
    assert listed["m"]["customer"] == "acme"
    shown = (await in_thread(shell.run, "dead-letters", "list")).stdout
    assert "acme-1: m 2026-05-04 12:00:00Z" in shown and "2 dead letters: 2 rejected" in shown
    done = await in_thread(
        shell.run, "dead-letters", "replay", str(listed["m"]["id"]), str(listed["gone"]["id"]), "999999"
    )
    assert done.exit_code == 1 and "1 dead letter replayed" in done.stdout
    assert (
        "no rule of connection 'acme-1' feeds its meter now" in done.stdout
        and "no dead letter 999999" in done.stdout
    )
    async with database.connection() as connection:
        rows = await connection.fetch("select meter, attempts from due_window")
    assert [(row["meter"], row["attempts"]) for row in rows] == [("m", 0)]
    assert await count(database, "dead_letter") == 1


# Trying, and links to connect


def test_a_declared_connection_is_tried_before_it_is_applied(shell: Shell) -> None:
    shell.declare("acme-1")
    good = shell.run("connections", "verify", "acme-1")
    assert good.exit_code == 0 and "verified" in good.stdout, good.output
    assert shell.run("connections", "list").stdout.startswith("no connections")
    document = json.loads(shell.run("connections", "verify", "acme-1", "--json").stdout)
    assert document["verdict"] == "verified"
    (shell.folder / "away").write_text("postgresql://nobody:secret@127.0.0.1:9/x")
    shell.declare("acme-1", credentials={"type": "dsn", "dsn": "${file:away}"})
    away = shell.run("connections", "verify", "acme-1")
    assert away.exit_code == 1 and "unavailable" in away.stdout, away.output
    near = shell.run("connections", "verify", "acme-2")
    assert near.exit_code != 0 and "did you mean 'acme-1'" in str(near.exception)


def test_a_connect_link_is_made_listed_and_revoked(shell: Shell) -> None:
    given = shell.folder / "given.yaml"
    given.write_text("""
title: Business Central
settings: {base_url: "https://bc.example.com", service: /v2.0, entity_set: readings}
credentials:
  type: oauth2_authorization_code
  authorization_url: https://login.example.com/authorize
  token_url: https://login.example.com/token
  client_id: gateway
  client_secret: "${file:dsn}"
""")
    made = shell.run(
        "connect-link", "create", "--customer", "acme", "--system", "odata", "--given", str(given), "--json"
    )
    assert made.exit_code == 0, made.output
    link = json.loads(made.stdout)
    assert "/connect/link/" in link["url"]
    shown = shell.run("connect-link", "list", "--json").stdout
    [listed] = json.loads(shown)
    assert (listed["state"], listed["customer"], listed["id"]) == ("open", "acme", link["id"])
    assert link["url"].rpartition("/")[2] not in shown
    assert shell.run("connect-link", "revoke", link["id"]).exit_code == 0
    assert json.loads(shell.run("connect-link", "list", "--json").stdout)[0]["state"] == "revoked"
    again = shell.run("connect-link", "revoke", link["id"])
    assert isinstance(again.exception, RequestRefused)


@pytest.mark.parametrize(
    ("arguments", "given", "says"),
    [
        (("--customer", "acme", "--system", "odta"), None, "did you mean 'odata'"),
        (("--customer", "acm", "--system", "odata"), None, "did you mean 'acme'"),
        (("--customer", "acme", "--system", "odata"), "setings: {}", "unknown key 'setings'"),
        (
            ("--customer", "acme", "--system", "odata"),
            "settings: {base_url: 'http://x.example'}",
            "use https",
        ),
        (
            ("--customer", "acme", "--system", "odata"),
            "credentials: {type: api_key, api_key: '${file:dsn}'}",
            "only an OAuth client",
        ),
    ],
)
def test_a_connect_link_that_could_not_be_followed_is_not_made(
    shell: Shell, arguments: tuple[str, ...], given: str | None, says: str
) -> None:
    if given is not None:
        (shell.folder / "given.yaml").write_text(given)
        arguments = (*arguments, "--given", str(shell.folder / "given.yaml"))
    made = shell.run("connect-link", "create", *arguments)
    assert made.exit_code != 0 and says in f"{made.output} {made.exception}"
    assert json.loads(shell.run("connect-link", "list", "--json").stdout) == []
