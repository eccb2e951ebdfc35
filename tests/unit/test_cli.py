"""The command line in a process of its own: output, errors, exit codes; and what is generated is current."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from connectors.registry import SYSTEMS
from gateway.cli.explain import explain_message
from gateway.configuration import load
from gateway.ingest.explain import window_of
from tests.fixtures import programs
from tools.reference import files

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 5, 4, 12, 7, 30, tzinfo=UTC)
ENVIRON = {
    "KEY": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "SINK": "postgresql://sink:sink@sinks.example/sink",
}
MAIN = """\
customers: [acme]
connections_file: connections.yaml
security: {encryption_keys: ["${env:KEY}"]}
"""
CONNECTIONS = """\
connections:
  - id: sink
    customer: acme
    system: postgres
    hosting: on_premises
    credentials: {type: dsn, dsn: "${env:SINK}"}
    sync: {lateness: 1m}
    meters:
      - {device: "pump-*", metric: temperature, meter: "{device}-T", unit: CEL, reduce: mean, every: 15m}
      - {device: "pump-*", metric: alarm, meter: "{device}-A", reduce: each}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "fieldgate.yaml").write_text(MAIN)
    (tmp_path / "connections.yaml").write_text(CONNECTIONS)
    return tmp_path


def fieldgate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    named = ("--config", str(folder / "fieldgate.yaml"))
    return programs.fieldgate(*arguments, *named, env={**ENVIRON, "COLUMNS": "200", "PATH": ""})


def test_check_summarises_what_is_right(folder: Path) -> None:
    done = fieldgate(folder, "check", "--json")
    assert done.returncode == 0, done.stderr
    [connection] = json.loads(done.stdout)["connections"]
    assert (connection["credits"], connection["meters"], connection["delivery"]) == (2, 2, "exactly_once")
    assert re.search(r"sink +acme +postgres +on_premises +1 +2 +2", fieldgate(folder, "check").stdout)


def test_check_tells_what_is_wrong_and_exits_with_2(folder: Path) -> None:
    (folder / "fieldgate.yaml").write_text(MAIN + "sync: {wrokers: 1}\n")
    done = fieldgate(folder, "check")
    assert done.returncode == 2
    assert f"{folder}/fieldgate.yaml:4: sync.wrokers: unknown key; did you mean 'workers'?" in done.stderr
    [fault] = json.loads(fieldgate(folder, "check", "--json").stdout)["faults"]
    assert (fault["line"], fault["path"]) == (4, "sync.wrokers")


@pytest.mark.parametrize("command", [("run",), ("migrate",), ("credits",), ("explain", "t", "1")])
def test_every_command_refuses_a_faulty_configuration_with_2(folder: Path, command: tuple[str, ...]) -> None:
    (folder / "fieldgate.yaml").write_text(MAIN + "unknown: 1\n")
    done = fieldgate(folder, *command)
    assert done.returncode == 2
    assert "fieldgate.yaml:4: unknown: unknown key" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_names_the_line_of_a_connections_file_that_cannot_be_read(folder: Path) -> None:
    (folder / "connections.yaml").write_text(
        CONNECTIONS.replace("    sync:", "    settings: {ca_file: away.pem}\n    sync:")
    )
    done = fieldgate(folder, "check")
    assert done.returncode == 2
    assert (
        f"connections.yaml:7: connections[0].settings.ca_file: {folder}/away.pem cannot be read"
        in done.stderr
    )


@pytest.mark.parametrize(("payload", "code"), [('{"temperature": 21.5}', 0), ("{", 1)])
def test_explain_ends_with_1_for_a_dead_letter_and_needs_no_secret(
    folder: Path, payload: str, code: int
) -> None:
    named = ("--config", str(folder / "fieldgate.yaml"))
    done = programs.fieldgate(
        "explain", "acme/devices/pump-7/telemetry", payload, *named, "--json", env={"PATH": ""}
    )
    assert done.returncode == code, done.stderr
    assert (json.loads(done.stdout)["dead_letter"] is None) is (code == 0)


def test_a_command_that_is_none_is_refused_with_2(folder: Path) -> None:
    done = fieldgate(folder, "chekc")
    assert done.returncode == 2
    assert "chekc" in done.stderr


def test_explain_follows_a_message_to_its_meters(folder: Path) -> None:
    loaded = load(folder / "fieldgate.yaml", ENVIRON, systems=SYSTEMS)
    found = explain_message(
        loaded, "acme/devices/pump-7/telemetry", b'{"temperature": 21.5, "alarm": true, "other": 1}', now=NOW
    )
    assert (found.customer, found.device, found.dead_letter) == ("acme", "pump-7", None)
    [sample] = found.samples
    assert sample.at == NOW
    mean, each = sample.meters
    assert (mean.meter, mean.value, mean.window_start) == ("pump-7-T", 21.5, NOW.replace(minute=0, second=0))
    assert (mean.window_end, mean.due_at) == (
        NOW.replace(minute=15, second=0),
        NOW.replace(minute=16, second=0),
    )
    assert (each.meter, each.value, each.window_start) == ("pump-7-A", True, NOW)


@pytest.mark.parametrize(
    ("topic", "payload", "reason"),
    [
        ("acme/devices/pump-7/telemetry", b'{"temperature":', "invalid_json"),
        (
            "acme/devices/pump-7/telemetry",
            b'{"ts": "2026-05-04T13:00:00Z", "temperature": 1}',
            "timestamp_in_future",
        ),
        ("globex/devices/pump-7/telemetry", b'{"temperature": 1}', "unknown_customer"),
        ("acme/pump-7", b"1", "unmatched_topic"),
    ],
)
def test_explain_says_why_a_message_is_dead_and_what_to_do(
    folder: Path, topic: str, payload: bytes, reason: str
) -> None:
    loaded = load(folder / "fieldgate.yaml", ENVIRON, systems=SYSTEMS)
    found = explain_message(loaded, topic, payload, now=NOW)
    assert (found.dead_letter, found.samples) == (reason, ())
    assert found.detail
    assert found.advice


def test_explain_tells_the_number_that_the_system_would_be_told(folder: Path) -> None:
    with (folder / "connections.yaml").open("a") as file:
        file.write(
            "      - {device: 'pump-*', metric: f, meter: '{device} F', from: degF, to: CEL, scale: 0.1}\n"
        )
    shown = fieldgate(folder, "explain", "acme/devices/pump-7/telemetry", '{"f": 2120}')
    assert "feeds pump-7 F (CEL) at sink" in shown.stdout, shown.stdout + shown.stderr
    assert "2120 alone is told as 100.0 CEL" in shown.stdout


def test_explain_prints_for_people_and_for_programs(folder: Path) -> None:
    arguments = (
        "explain",
        "acme/devices/pump-7/telemetry",
        '{"ts": "2026-05-04T12:07:30Z", "temperature": 21.5, "on": true, "mode": "eco"}',
    )
    (folder / "fieldgate.yaml").write_text(MAIN + "telemetry: {retention: 36500d}\n")
    shown = fieldgate(folder, *arguments)
    assert shown.returncode == 0, shown.stderr
    assert "temperature = 21.5, on = true, mode = 'eco'" in shown.stdout
    assert "feeds pump-7-T (CEL) at sink (postgres)" in shown.stdout
    assert (
        "mean of temperature over [2026-05-04 12:00:00Z, 2026-05-04 12:15:00Z), due 2026-05-04 12:16:00Z"
        in shown.stdout
    )
    printed = json.loads(fieldgate(folder, *arguments, "--json").stdout)
    assert printed["samples"][0]["meters"][0]["due_at"] == "2026-05-04T12:16:00Z"


@pytest.mark.parametrize(
    ("said", "window"),
    [
        (
            "every: day, zone: Europe/Berlin",
            "[2026-03-28 23:00:00Z, 2026-03-29 22:00:00Z), a day in Europe/Berlin, due 2026-03-29 22:01:00Z",
        ),
        (
            'every: shift, zone: Europe/Berlin, shifts: ["02:30", "14:00"]',
            "[2026-03-29 01:00:00Z, 2026-03-29 12:00:00Z), a shift from 02:30, 14:00 in Europe/Berlin, due",
        ),
        (
            "every: month, zone: Asia/Tokyo",
            "[2026-02-28 15:00:00Z, 2026-03-31 15:00:00Z), a month in Asia/Tokyo, due 2026-03-31 15:01:00Z",
        ),
    ],
)
def test_explain_shows_windows_of_the_calendar(folder: Path, said: str, window: str) -> None:
    (folder / "connections.yaml").write_text(CONNECTIONS.replace("every: 15m", said))
    (folder / "fieldgate.yaml").write_text(MAIN + "telemetry: {retention: 36500d}\n")
    payload = '{"ts": "2026-03-29T01:30:00Z", "temperature": 21.5}'
    shown = fieldgate(folder, "explain", "acme/devices/pump-7/telemetry", payload)
    assert f"mean of temperature over {window}" in shown.stdout, shown.stdout + shown.stderr


def test_explain_takes_a_negative_number_and_a_file(folder: Path) -> None:
    topic = "acme/devices/pump-7/telemetry/temperature"
    assert "temperature = -5" in fieldgate(folder, "explain", topic, "-5").stdout
    (folder / "payload").write_bytes(b"7.5")
    assert "temperature = 7.5" in fieldgate(folder, "explain", topic, f"@{folder}/payload").stdout
    refused = fieldgate(folder, "explain", topic, "1", "--jsn")
    assert refused.returncode == 2


@pytest.mark.parametrize(
    ("at", "minutes", "start"),
    [
        ("2026-05-04T12:15:00", 15, "2026-05-04T12:15:00"),
        ("1969-12-31T23:59:59", 15, "1969-12-31T23:45:00"),
        ("2026-05-04T12:14:59.999999", 15, "2026-05-04T12:00:00"),
    ],
)
def test_windows_are_counted_from_1970(at: str, minutes: int, start: str) -> None:
    parsed = datetime.fromisoformat(at).replace(tzinfo=UTC)
    assert window_of(parsed, timedelta(minutes=minutes))[0] == datetime.fromisoformat(start).replace(
        tzinfo=UTC
    )


def test_what_is_generated_from_the_code_is_current() -> None:
    stale = [
        path
        for path, text in files().items()
        if not (ROOT / path).exists() or (ROOT / path).read_text(encoding="utf-8") != text
    ]
    assert not stale, "run `python -m tools.reference`"


def test_log_events_are_named_room_past_tense() -> None:
    rooms = {path.stem for path in (ROOT / "gateway").iterdir()} | {
        "connect",
        "connection",
        "credential",
        "gateway",
        "library",
    }
    events = re.findall(r"^\| `([^`]+)`", files()["docs/reference/log-events.md"], re.MULTILINE)
    assert len(events) > 20
    assert [
        event
        for event in events
        if not re.fullmatch(r"[a-z]+\.(\{name\}_logged|[a-z]+(_[a-z]+)*)", event)
        or event.split(".")[0] not in rooms
    ] == []


def test_explain_follows_a_pattern_of_metrics_and_says_the_unit(folder: Path) -> None:
    path = folder / "connections.yaml"
    path.write_text(
        path.read_text()
        + '      - {device: "*", metric: "t*", meter: "{device} {metric}", from: degF, to: CEL, unit: "°C"}\n'
    )
    loaded = load(folder / "fieldgate.yaml", ENVIRON, systems=SYSTEMS)
    found = explain_message(
        loaded, "acme/devices/press/telemetry", b'{"t1": 212, "other": 1, "t2": "x"}', now=NOW
    )
    [sample] = found.samples
    first, second = sample.meters
    assert (first.meter, first.unit, first.refused) == ("press t1", "°C", None)
    assert first.arithmetic == "degF to CEL (times 5/9, plus -160/9)"
    assert second.meter == "press t2" and "no number for last" in str(second.refused)


def test_the_version_is_said_without_any_command() -> None:
    """In a fifth of a second instead of two and a half: scripts ask for it."""
    program = "import sys; from gateway.cli.main import main\ntry: main()\nfinally: print(*sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", program, "--version"], check=True, capture_output=True, text=True
    ).stdout
    version, modules = said.splitlines()
    assert re.fullmatch(r"fieldgate \d+\.\d+\.\d+", version)
    assert not {"gateway.app", "gateway.configuration", "httpx", "asyncpg"} & set(modules.split())
