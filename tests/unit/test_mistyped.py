"""What a person sees who mistypes: each command refuses in one line that says what, where and what to do, with
exit code 2 and without a trace; and its help is whole.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from gateway.cli.main import COMMANDS, SECTIONS
from gateway.model.topics import filter_fault, topic_fault
from tests.fixtures import programs


def fieldgate(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"COLUMNS": "80", "PATH": "", "FIELDGATE_DATABASE_DSN": "postgresql://a:b@127.0.0.1:1/c"}
    return programs.fieldgate(*arguments, env=environment)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nosuch",), "No such command 'nosuch'"),
        (("conections", "list"), "'connections'"),
        (("token", "create"), "Missing option '--role'. Choose from: viewer, operator, admin"),
        (("login", "--role", "nobody"), "'nobody' is not one of 'viewer', 'operator', 'admin'"),
        (("simulate", "--devices", "0"), "'--devices'"),
        (("simulate", "--nosuch"), "--nosuch"),
        (("simulate", "--broker", "nonsense"), "--broker nonsense: expected mqtt://host:port"),
        (("simulate", "--duration", "0s"), "--duration '0s': expected more than nothing"),
        (("simulate", "--duration", "5"), "--duration '5': expected a number and a unit"),
        (("simulate", "--customer", "a/b"), "--customer 'a/b'"),
        (
            ("simulate", "--broker", "mqtts://h:1", "--ca-file", "nosuch.pem"),
            "--ca-file nosuch.pem: no such file",
        ),
        (("discover", "--topic", "a/#/b"), "--topic 'a/#/b' is no filter"),
        (("discover", "--topic", ""), "--topic '' is no filter: it is empty"),
        (("discover", "--customer", "X Y"), "--customer 'X Y'"),
        (("explain", "plant/#", "1"), "'plant/#'"),
        (("explain", "", "1"), "it is empty"),
        (
            ("token", "create", "--role", "admin", "--expires", "0d"),
            "--expires '0d': expected more than nothing",
        ),
        (("events", "--since", "0s"), "--since '0s': expected more than nothing"),
        (("events", "--type", "nosuch"), "known are alert.acknowledged"),
        (("doctor", "--only", "nosuch"), "known are broker, "),
        (
            ("connect-link", "create", "--customer", "acme", "--system", "nosuch"),
            "known are http_json, maintainx",
        ),
        (("devices", "list", "--after", "nonsense"), "--after 'nonsense': expected CUSTOMER/DEVICE"),
        (("sources", "show", "nosuch"), "there is no preset 'nosuch'; known are "),
    ],
)
def test_what_is_mistyped_is_refused_in_one_line(arguments: tuple[str, ...], said: str) -> None:
    done = fieldgate(*arguments)
    assert done.returncode == 2 and not done.stdout
    [line] = done.stderr.splitlines()
    assert line.startswith("fieldgate: ") and said in line
    assert "Value error" not in line


@pytest.mark.parametrize("command", [("devices", "list"), ("discover", "--seconds", "1")])
def test_who_is_away_is_said_with_what_to_do(tmp_path: Path, command: tuple[str, ...]) -> None:
    config = tmp_path / "fieldgate.yaml"
    config.write_text(
        "broker: {url: 'mqtt://127.0.0.1:1'}\ndatabase: {dsn: '${env:FIELDGATE_DATABASE_DSN}'}\n"
        "security: {encryption_keys: ['${file:key}']}\n"
    )
    (tmp_path / "key").write_text("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")
    done = fieldgate(*command, "--config", str(config))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(r"; start (PostgreSQL|the broker) or correct (database.dsn|broker.url)\n", done.stderr)


def test_a_file_that_is_none_of_text_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"a: 1\n\xff")
    for place, said in (
        (tmp_path, "cannot be read: Is a directory; name a file of YAML"),
        (tmp_path / "bytes.yaml", "is no text in UTF-8 (byte 6); save it as such"),
    ):
        done = fieldgate("explain", "a/b", "1", "--config", str(place))
        assert (done.returncode, done.stderr) == (2, f"fieldgate: {place}: {said}\n")


def test_the_help_tells_the_whole_of_what_each_command_does() -> None:
    shown = " ".join(fieldgate("--help").stdout.split())
    assert "..." not in shown.replace("[ARGS]...", "")
    assert all(f" {name} " in shown for name in COMMANDS) and all(
        f" {title}: " in shown for title in SECTIONS
    )
    assert "..." not in fieldgate("connections", "--help").stdout.replace("[ARGS]...", "")


def test_a_program_that_is_called_without_anything_shows_its_help() -> None:
    for arguments in ((), ("connections",)):
        done = fieldgate(*arguments)
        assert done.returncode == 2 and done.stderr.startswith("Usage: ") and "Options:" in done.stderr


@pytest.mark.parametrize("text", ["#", "+", "a/#", "+/b/+", "/", "a//b", "$SYS/#"])
def test_filters_that_a_broker_takes(text: str) -> None:
    assert filter_fault(text) is None


@pytest.mark.parametrize("text", ["", "a/#/b", "a#", "#/a", "a+/b", "a/+b", "##", "a\0b"])
def test_filters_that_no_broker_takes(text: str) -> None:
    assert filter_fault(text) is not None


@pytest.mark.parametrize(
    ("text", "good"), [("a/b", True), ("/", True), ("", False), ("a/+", False), ("#", False)]
)
def test_topics_that_can_be_published_to(text: str, *, good: bool) -> None:
    assert (topic_fault(text) is None) is good
