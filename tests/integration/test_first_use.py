"""What somebody meets who uses the command line and the API for the first time, on a real database."""

from __future__ import annotations

import asyncio
import io
import json
import re
from dataclasses import replace
from datetime import time, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from rich.console import Console

from gateway.cli import screen
from gateway.cli.connection_screen import show_facts, show_list, show_streams
from gateway.cli.main import COMMANDS
from gateway.configuration.schema import written
from gateway.connections.transitions import cause_of
from gateway.demo import view
from gateway.events.documents import status_document
from gateway.http.documents import ConnectionDocument
from gateway.model.access import Caller, Role
from gateway.model.arithmetic import Arithmetic
from gateway.model.calendar import Calendar
from gateway.model.connection import State, Trigger
from gateway.model.errors import ConfigError, RequestRefused
from gateway.model.meter import REDUCTIONS, MeterRule, to_document
from gateway.model.status import ConnectionStatus, StreamStatus
from gateway.settings import ConnectionPatch
from gateway.settings_base import parse_duration
from gateway.store import access
from gateway.store.pool import Database
from tests.integration.test_operating import Shell, gateway, in_state, shell, status

__all__ = ["shell"]  # the fixture


async def put(shell: Shell, connection: str, state: str) -> None:
    """As if it had come there by itself."""
    await shell.execute("update connection set state = $2 where connection_id = $1", connection, state)


NO_CONNECTION_SECRET = (
    ("connections", "list"),
    ("connections", "show", "acme-1"),
    ("connections", "pause", "acme-1"),
    ("connections", "recheck", "acme-1"),
    ("connections", "reauthorize", "acme-1"),
    ("connections", "disconnect", "acme-1", "--yes"),
    ("sync", "acme-1", "--no-wait"),
    ("dead-letters", "list"),
    ("token", "list"),
    ("token", "create", "--role", "viewer"),
    ("login",),
    ("credits",),
    ("incidents",),
    ("keys",),
    ("migrate",),
    ("sources", "list"),
    ("explain", "acme/devices/pump-1/telemetry", '{"t": 1}'),
)


@pytest.mark.parametrize("command", NO_CONNECTION_SECRET, ids=" ".join)
async def test_a_command_works_without_the_secrets_of_connections(
    shell: Shell, command: tuple[str, ...]
) -> None:
    shell.declare("acme-1")
    await asyncio.to_thread(shell.run, "apply")
    await put(shell, "acme-1", "active")
    shell.declare("acme-1", credentials={"type": "dsn", "dsn": "${env:NOBODY_SET_THIS}"})
    done = await asyncio.to_thread(shell.run, *command)
    assert not isinstance(done.exception, ConfigError), done.exception
    assert done.exit_code == (1 if command == ("credits",) else 0), (done.output, done.exception)
    # 1: the credits of a connection that was put where it is contradict its state


@pytest.mark.parametrize("command", [("check",), ("apply",), ("apply", "--dry-run")], ids=" ".join)
def test_what_uses_the_secrets_says_which_is_missing(shell: Shell, command: tuple[str, ...]) -> None:
    shell.declare("acme-1", credentials={"type": "dsn", "dsn": "${env:NOBODY_SET_THIS}"})
    done = shell.run(*command)
    assert "NOBODY_SET_THIS is not set" in f"{done.output}{done.exception}"


def test_what_asks_the_database_says_that_its_address_is_missing(shell: Shell) -> None:
    shell.dsn = ""
    error = shell.refused("connections", "list")
    assert isinstance(error, ConfigError) and "database.dsn: secret file" in str(error)


# what cannot be undone

DESTRUCTIVE = (
    ("connections", "disconnect", "acme-1"),
    ("token", "revoke", "ci"),
    ("sync", "acme-1", "--full"),
    ("sync", "acme-1", "--stream", "work_orders", "--confirm-deletions"),
    ("apply", "--prune"),
)


@pytest.mark.parametrize("command", DESTRUCTIVE, ids=" ".join)
async def test_what_cannot_be_undone_is_refused_where_nobody_can_be_asked(
    shell: Shell, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.declare("acme-1")
    await asyncio.to_thread(shell.run, "apply")
    await put(shell, "acme-1", "active")
    await asyncio.to_thread(shell.run, "token", "create", "--role", "viewer", "--name", "ci")
    if "--prune" in command:
        shell.declare()
    error = await asyncio.to_thread(shell.refused, *command)
    assert isinstance(error, ConfigError), "exit code 2"
    assert "add --yes" in str(error) and "nothing was done" in str(error)
    monkeypatch.setattr(screen, "is_interactive", lambda: True)
    declined = await asyncio.to_thread(lambda: shell.run(*command, input="n\n"))
    assert declined.exit_code == 1
    [found] = await asyncio.to_thread(shell.json, "connections", "list")
    [token] = await asyncio.to_thread(shell.json, "token", "list")
    assert (found["state"], token["revoked_at"]) == ("active", None)


def test_an_id_that_is_used_up_is_named_with_what_to_do(shell: Shell) -> None:
    shell.declare("acme-1")
    shell.run("apply")
    shell.run("connections", "disconnect", "acme-1", "--yes")
    assert "`fieldgate apply --dry-run` says what would change there" in shell.run("check").output
    for arguments in (
        ("apply", "--dry-run"),
        ("apply",),
        ("apply", "--json"),
        ("apply", "--dry-run", "--json"),
    ):
        done = shell.run(*arguments)
        assert done.exit_code == 1, arguments
        assert "remove it from the file" in done.stdout and "'acme-1-2'" in done.stdout


async def test_a_dead_letter_is_shown_whole_with_what_to_do(shell: Shell) -> None:
    shell.declare("acme-1")
    await asyncio.to_thread(shell.run, "apply")
    for payload in (b'{"ts": "rubbish', b"\x1b[2Jboo"):  # the second would empty the terminal
        await shell.execute(
            "insert into dead_letter (kind, customer_id, topic, reason, detail, payload, digest) values"
            " ('message', 'acme', 'acme/devices/d/telemetry', 'invalid_json', 'unexpected end', $1, $2)",
            payload,
            payload[:8],
        )
    await shell.execute(
        "insert into dead_letter (kind, digest, connection_id, meter, window_start, reason, detail) values"
        " ('reading', 'r', 'acme-1', 'pump', '2026-03-01T00:00:00Z', 'refused', 'locked')"
    )
    listed = sorted(each["id"] for each in await asyncio.to_thread(shell.json, "dead-letters", "list"))
    first, second, reading = [
        (await asyncio.to_thread(shell.run, "dead-letters", "show", str(each))).stdout for each in listed
    ]
    assert '{"ts": "rubbish' in first and "invalid_json" in first and f"replay {listed[0]}" in first
    assert "\x1b[2J" not in second and "hex 1b5b324a626f6f" in second
    assert "acme-1" in reading and "locked" in reading and "2026-03-01" in reading
    found = await asyncio.to_thread(shell.json, "dead-letters", "show", str(listed[0]))
    assert found["payload_base64"] == "eyJ0cyI6ICJydWJiaXNo" and found["advice"]
    error = await asyncio.to_thread(shell.refused, "dead-letters", "show", "999999")
    assert isinstance(error, RequestRefused) and "no dead letter 999999" in str(error)


# names that there are not


@pytest.mark.parametrize(
    ("command", "near"),
    [
        (("connections", "list", "--customer", "acmee"), "'acme'"),
        (("token", "create", "--role", "viewer", "--customer", "acmee"), "'acme'"),
        (("login", "--customer", "acmee"), "'acme'"),
        (("dead-letters", "list", "--connection", "acme1"), "'acme-1'"),
        (("connections", "show", "acme1"), "'acme-1'"),
        (("connections", "recheck", "acme1"), "'acme-1'"),
        (("connections", "disconnect", "acme1", "--yes"), "'acme-1'"),
        (("sync", "acme1"), "'acme-1'"),
        (("token", "revoke", "ci-bt"), "'ci-bot'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_a_name_that_there_is_not_is_an_error_with_what_is_near(
    shell: Shell, command: tuple[str, ...], near: str
) -> None:
    shell.declare("acme-1")
    shell.run("apply")
    shell.run("token", "create", "--role", "viewer", "--name", "ci-bot")
    error = shell.refused(*command)
    assert isinstance(error, RequestRefused) and error.code == "request.not_found"
    assert f"did you mean {near}" in str(error)
    assert len(shell.json("token", "list")) == 1, "no token for nobody"


def test_a_customer_is_known_by_the_configuration_alone(shell: Shell) -> None:
    assert shell.json("connections", "list", "--customer", "globex") == []


# recheck


async def test_recheck_says_whether_a_gateway_looked(shell: Shell) -> None:
    shell.declare("acme-1")
    await asyncio.to_thread(shell.run, "apply")
    await put(shell, "acme-1", "active")
    alone = await asyncio.to_thread(shell.run, "connections", "recheck", "acme-1")
    assert "is active as of its last check; no gateway is running" in alone.stdout
    assert (await asyncio.to_thread(shell.json, "connections", "recheck", "acme-1"))["checked"] is False
    async with gateway(shell):
        await in_state(shell, "acme-1", "active")
        await shell.execute("insert into announced_replica (replica_id) values ('one')")
        looked = await asyncio.to_thread(shell.run, "connections", "recheck", "acme-1")
    assert "a running gateway took up the check" in looked.stdout, looked.output


# login


async def test_the_login_link_opens_one_session(shell: Shell, database: Database) -> None:
    done = await asyncio.to_thread(
        shell.run, "login", "--customer", "acme", "--role", "operator", "--name", "ann"
    )
    assert done.exit_code == 0, (done.output, done.exception)
    before, _, secret = done.stdout.strip().rpartition("/")
    assert before == "http://127.0.0.1:8080/login" and "good once" in done.stderr
    session = await access.redeem_login(database, secret)
    assert session is not None
    principal = session.principal
    assert (principal.name, principal.role, principal.customer) == ("ann", Role.OPERATOR, "acme")
    assert await access.redeem_login(database, secret) is None


def test_the_login_page_names_commands_that_there_are() -> None:
    root = Path(__file__).parents[2] / "gateway" / "http" / "dashboard" / "templates"
    assert "<code>fieldgate login</code>" in (root / "login.html").read_text()
    assert "login" in COMMANDS


# reasons


async def test_an_active_connection_has_no_reason_and_a_resumed_one_that_of_before(shell: Shell) -> None:
    shell.declare("acme-1")
    await asyncio.to_thread(shell.run, "apply")
    for state, reason in (("active", None), ("blocked", "a permission is missing")):
        await put(shell, "acme-1", state)
        await shell.execute("update connection set reason = $1", "a permission is missing")
        await shell.execute(
            "insert into connection_audit (connection_id, from_state, to_state, trigger, reason, actor) "
            "values ('acme-1', 'active', $1, 'call_denied', 'a permission is missing', 'gateway')",
            state,
        )
        for _ in range(2):
            await asyncio.to_thread(shell.run, "connections", "pause", "acme-1")
            paused = await asyncio.to_thread(shell.json, "connections", "show", "acme-1")
            assert paused["reason"] == "Paused from the command line"
            await asyncio.to_thread(shell.run, "connections", "resume", "acme-1")
            resumed = await asyncio.to_thread(shell.json, "connections", "show", "acme-1")
            assert (resumed["state"], resumed["reason"]) == (state, reason)


@pytest.mark.parametrize("trigger", [Trigger.PAUSE_ASKED, Trigger.RESUME_ASKED, Trigger.DISCONNECT_ASKED])
@pytest.mark.parametrize("name", ["cli", "file", "ann"])
def test_who_asked_is_said_in_words(trigger: Trigger, name: str) -> None:
    cause = cause_of(trigger, Caller(name=name))
    assert cause.reason is not None and "asked by" not in cause.reason
    assert cause.reason.split()[0] in ("Paused", "Resumed", "Disconnected")


# a terminal of 80 columns


def demonstration(link: str) -> tuple[view.Snapshot, Any]:
    now = view.Snapshot(
        records=0,
        elapsed_seconds=1.0, acknowledged=1, unacknowledged=0, messages_per_second=1.0, stored=1, dead_letters=0, delivered=1,
        repeats=0, calls=1, calls_failed=0, connection=None, last=(("pump-01", {}, "12:00:00"),),
    )  # fmt: skip
    dashboard = SimpleNamespace(done=lambda: True, result=lambda: link)
    switches = SimpleNamespace(answer_500=False, slow_seconds=0.0, revoke_key=False)
    scene = SimpleNamespace(
        dashboard=dashboard,
        url="http://127.0.0.1:8080",
        folder=Path("/home/somebody/a/rather/long/path/to/the/clone/of/fieldgate/var/demo/config"),
        servers=SimpleNamespace(broker="mosquitto", broker_url="mqtt://127.0.0.1:1883"),
        cmms=SimpleNamespace(switches=switches, new_key=None, control_url="http://127.0.0.1:40000/control"),
    )
    return now, scene


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 40), (132, 43)])
def test_the_login_address_of_the_demonstration_is_whole(width: int, height: int) -> None:
    link = f"http://127.0.0.1:8080/login/{access.new_secret()}"
    now, scene = demonstration(link)
    output = io.StringIO()
    console = Console(file=output, width=width, height=height)
    console.print(view.screen(now, scene, log_file="/tmp/demo.log", height=height))
    lines = [line.rstrip() for line in output.getvalue().splitlines()]
    assert link in lines[:height], "on a line of its own, to be copied"
    assert "…" not in output.getvalue()


@pytest.mark.parametrize("height", [24, 30])
def test_the_demonstration_names_the_state_and_shows_no_table_without_a_row(height: int) -> None:
    now, scene = demonstration("http://127.0.0.1:8080/login/x")
    said = "the system answered 401 to GET /meters"
    now = replace(now, connection=replace(status(State.REAUTHORIZATION_REQUIRED), reason=said))
    output = io.StringIO()
    console = Console(file=output, width=80, height=height)
    console.print(view.screen(now, scene, log_file="/tmp/demo.log", height=height))
    text = output.getvalue()
    assert {"reauthorization", "required", said} <= {*text.split(), *map(str.strip, text.splitlines())}
    assert ("last readings" in text) is ("pump-01" in text)


BEHIND = replace(
    status(State.ACTIVE),
    pending=1_204,
    streams=(replace(status(State.ACTIVE).streams[0], state="lagging", lag_seconds=48.0),),
)


@pytest.mark.parametrize(
    ("now", "is_said"),
    [
        (BEHIND, True),
        (replace(BEHIND, streams=(replace(BEHIND.streams[0], state="running"),)), True),
        (replace(BEHIND, streams=(replace(BEHIND.streams[0], state="idle"),)), False),
        (replace(BEHIND, streams=(replace(BEHIND.streams[0], lag_seconds=4.0),)), False),
        (replace(BEHIND, streams=(replace(BEHIND.streams[0], direction="inbound"),)), False),
        (replace(BEHIND, state=State.PAUSED), False),
    ],
)
def test_while_a_backlog_goes_out_lists_and_views_say_more_than_active(
    now: ConnectionStatus, is_said: bool
) -> None:
    output = io.StringIO()
    console = Console(file=output, width=160)
    show_list(console, [now], {now.state: 1}, now.since)
    show_facts(console, now, now.since)
    snapshot, scene = demonstration("http://127.0.0.1:8080/login/x")
    console.print(view.screen(replace(snapshot, connection=now), scene, log_file="/tmp/l", height=40))
    assert output.getvalue().count("catching up") == (3 if is_said else 0)
    assert ("the oldest reading is 48 s late" in output.getvalue()) is is_said
    streams = status_document(now, now=now.since).model_dump()["streams"]
    assert (streams[0]["state"], streams[0]["lag_seconds"]) == (
        now.streams[0].state,
        now.streams[0].lag_seconds,
    )


@pytest.mark.parametrize("height", [24, 40])
def test_the_new_key_of_the_demonstration_is_whole(height: int) -> None:
    now, scene = demonstration("http://127.0.0.1:8080/login/x")
    scene.cmms.new_key = "k" * 32
    output = io.StringIO()
    console = Console(file=output, width=80, height=height)
    console.print(view.screen(now, scene, log_file="/tmp/demo.log", height=height))
    assert re.search(r"new key +k{32} ", output.getvalue())
    assert len(output.getvalue().splitlines()) <= height


@pytest.mark.parametrize("width", [60, 80, 132])
def test_a_connection_is_shown_without_a_broken_word(width: int) -> None:
    stream = StreamStatus(
        name="maintenance_work_orders", direction="inbound", phase="incremental", state="failed", watermark="", lag_seconds=3.0,
        progress=None,
    )  # fmt: skip
    said = (
        "the system answered 503 Service Unavailable to a request for maintenance orders, tried again"
        " automatically"
    )
    found = replace(status(State.DEGRADED), streams=(stream,), reason=said, customer="acme")
    output = io.StringIO()
    console = Console(file=output, width=width)
    show_facts(console, found, found.since)
    show_streams(console, found)
    words = output.getvalue().split()
    assert set(said.split()) <= set(words)
    assert {"maintenance_work_orders", "incremental", "failed"} <= set(words) and "…" not in output.getvalue()
    assert all(len(line.rstrip()) <= width for line in output.getvalue().splitlines())


# what is read can be given back

RULES = st.builds(
    MeterRule,
    device=st.sampled_from(["pump-1", "pump-*"]),
    metric=st.sampled_from(["t", "p"]),
    meter=st.just("{device} {metric}"),
    unit=st.none() | st.just("CEL"),
    reduce=st.sampled_from(REDUCTIONS),
    every=st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=90)),
    deadband=st.floats(0, 1000, allow_nan=False),
).map(lambda rule: replace(rule, unit=rule.unit and "HUR") if rule.reduce == "run_time" else rule)
CALENDARS = st.sampled_from(
    [
        Calendar(period="week", zone="Australia/Lord_Howe"),
        Calendar(period="shift", zone="Europe/Berlin", shifts=(time(6), time(14, 30))),
    ]
)
OF_CALENDARS = st.builds(
    MeterRule,
    device=st.just("pump-1"),
    metric=st.just("t"),
    meter=st.just("{metric}"),
    reduce=st.just("time_weighted_mean"),
    every=CALENDARS,
    deadband=st.just(0.5),
    max_silence=st.just(timedelta(hours=26)),
    arithmetic=st.builds(
        Arithmetic,
        scale=st.sampled_from([1.0, 0.1]),
        valid=st.just((-40.0, 85.0)),
        hold=st.just(timedelta(hours=2)),
    ),
)


@given(st.lists(OF_CALENDARS, min_size=1, max_size=3))
@examples(max_examples=20, deadline=None)
def test_meters_of_the_calendar_that_reckon_can_be_given_back(rules: list[MeterRule]) -> None:
    read = ConnectionDocument._as_given([json.loads(json.dumps(to_document(rule))) for rule in rules])
    patch = ConnectionPatch.model_validate({"meters": json.loads(json.dumps(read))})
    assert patch.meters is not None
    back = [(m.window, m.max_silence, m.arithmetic, m.deadband) for m in patch.meters]
    assert back == [(r.every, r.max_silence, r.arithmetic, r.deadband) for r in rules]


@given(st.lists(RULES, max_size=5))
@examples(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_meters_that_were_read_can_be_given_back(rules: list[MeterRule]) -> None:
    read = ConnectionDocument._as_given([to_document(rule) for rule in rules])
    patch = ConnectionPatch.model_validate({"meters": json.loads(json.dumps(read))})
    assert patch.meters is not None
    back: list[Any] = [
        (m.device, m.metric, m.meter, m.unit, m.reduce, m.every, m.deadband) for m in patch.meters
    ]
    assert back == [(r.device, r.metric, r.meter, r.unit, r.reduce, r.every, r.deadband) for r in rules]


@example(timedelta(days=28634, microseconds=5094))  # of which a double is another one
@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=40_000)))
def test_a_duration_is_written_as_it_is_read(duration: timedelta) -> None:
    assert parse_duration(written(duration)) == duration
