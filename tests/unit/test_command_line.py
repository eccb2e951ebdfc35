"""The command line as a shell and a person meet it: completion in a real bash, examples, and what `init`
writes.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from gateway.cli.main import COMMANDS, build
from gateway.configuration.usable import key_problem
from gateway.model.errors import ConfigError


def leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command that does something."""
    if hasattr(command, "commands"):
        for each, inner in command.commands.items():
            yield from leaves(inner, f"{name} {each}".strip())
        if not command.invoke_without_command or not name:
            return
    yield name, command


ALL = {name: command for each in COMMANDS for name, command in leaves(get_command(build([each])), "") if name}


def test_there_are_commands_and_each_once() -> None:
    assert len(ALL) > 50 and {name.split()[0] for name in ALL} == set(COMMANDS)


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_command_has_an_example_in_its_help_that_it_would_take(name: str) -> None:
    text = " ".join((ALL[name].help or "").split())
    found = re.search(r"Examples?: (.+)$", text)
    assert found, "no example"
    for written in found[1].split("; "):
        words = shlex.split(written.partition(" > ")[0])
        assert words[0] == "fieldgate" and " ".join(words[1:]).startswith(name), written
        rest = words[1 + len(name.split()) :]
        ALL[name].make_context(name, rest, resilient_parsing=False)


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_command_takes_the_configuration_from_the_environment(name: str) -> None:
    """Commands can be copied from a page as they stand, with one line before them that names the file."""
    taken = [option.envvar for option in ALL[name].params if "--config" in option.opts]
    assert taken in ([], ["FIELDGATE_CONFIG"])


def test_the_configuration_that_the_environment_names_is_read_unless_the_option_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "other"):
        run("init", str(tmp_path / name), "--customer", name)
    monkeypatch.setenv("FIELDGATE_CONFIG", str(tmp_path / "one" / "fieldgate.yaml"))
    named = ("--config", str(tmp_path / "other" / "fieldgate.yaml"))
    for option, customer in (((), "one"), (named, "other")):
        done = run("check", "--json", *option)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["customers"] == [customer]


# what a command imports


WORKING = {"apply", "connect-link", "customer", "demo", "doctor", "run", "systems", "webhooks"}
"""They call systems, serve, or are about what systems take."""


def test_a_command_that_reads_imports_nothing_that_works_connections() -> None:
    """Who types a command waits for what it imports."""
    places = [f"gateway.cli.{name.replace('-', '_')}" for name in COMMANDS if name not in WORKING]
    program = f"import sys, {', '.join(places)}; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    heavy = {"gateway.engine", "gateway.connections.service", "httpx", "fastapi"}
    assert not [
        name for name in modules.split() if name in heavy or re.match(r"connectors\.\w+\.connector$", name)
    ]


# completion


def completed(line: str) -> list[str]:
    """What bash offers at the end of the line."""
    bash = shutil.which("bash")
    assert bash
    program = f"{Path(sys.executable).parent / 'fieldgate'}"
    script = subprocess.run(
        [program, "completion", "bash"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    words = line.split(" ")
    asking = f"""
{script}
COMP_WORDS=({" ".join(map(shlex.quote, words))})
COMP_CWORD={len(words) - 1}
_fieldgate_completion fieldgate
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        [bash, "--norc", "-c", asking],
        env={"PATH": f"{Path(program).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.split()


@pytest.mark.skipif(
    shutil.which("bash") is None or not (Path(sys.executable).parent / "fieldgate").exists(),
    reason="bash and the installed command are needed",
)
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("fieldgate do", {"doctor"}),
        ("fieldgate con", {"connections"}),
        ("fieldgate connections dis", {"disconnect"}),
        ("fieldgate webhooks ", {"list", "create", "test", "resend", "replay", "rotate", "disable"}),
        ("fieldgate login --ro", {"--role"}),
        ("fieldgate login --role ", {"viewer", "operator", "admin"}),
        ("fieldgate completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_bash_completes_commands_options_and_values(line: str, offered: set[str]) -> None:
    assert offered <= set(completed(line))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_script_for_each_shell(shell: str) -> None:
    done = CliRunner().invoke(build(["completion"]), ["completion", shell])
    assert done.exit_code == 0 and "_FIELDGATE_COMPLETE" in done.stdout
    if (program := shutil.which(shell)) is not None:  # its own check of the syntax
        parsed = subprocess.run([program, "-n"], input=done.stdout, text=True, check=False, timeout=30)
        assert parsed.returncode == 0


# init


@dataclass(frozen=True, slots=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str) -> Done:
    """In this process, with the exit codes of `main`."""
    done = CliRunner().invoke(build(arguments), list(arguments), env={"COLUMNS": "200"})
    if isinstance(done.exception, ConfigError):
        return Done(2, done.stdout, str(done.exception))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


def test_init_writes_what_check_takes_with_a_key_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "here"
    done = run("init", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"] == [
        ".env",
        "compose.override.yaml",
        "connections.yaml",
        "fieldgate.yaml",
        "secrets/database_dsn",
        "secrets/encryption_key",
    ]
    assert run("check", "--config", str(folder / "fieldgate.yaml")).returncode == 0
    key = (folder / "secrets" / "encryption_key").read_text()
    assert key_problem(key) is None
    run("init", str(tmp_path / "other"))
    assert (tmp_path / "other" / "secrets" / "encryption_key").read_text() != key
    for name in (".env", "secrets/database_dsn", "secrets/encryption_key"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE((folder / "secrets").stat().st_mode) == 0o700


def test_init_fills_in_what_was_said(tmp_path: Path) -> None:
    done = run(
        "init", str(tmp_path / "g"), "--customer", "acme", "--customer", "globex", "--instance", "line-7",
        "--broker", "mqtts://broker.example:8883", "--username", "gate", "--dsn", "postgresql://u:p@db/x",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "secrets/broker_password" in done.stdout and "database_dsn and" not in done.stdout
    checked = run("check", "--config", str(tmp_path / "g" / "fieldgate.yaml"), "--json")
    assert json.loads(checked.stdout)["customers"] == ["acme", "globex"]
    written = yaml.safe_load((tmp_path / "g" / "fieldgate.yaml").read_text())
    assert (written["instance"], written["broker"]["username"]) == ("line-7", "gate")
    assert (tmp_path / "g" / "secrets" / "database_dsn").read_text() == "postgresql://u:p@db/x\n"


def test_the_sample_of_connections_is_one(tmp_path: Path) -> None:
    run("init", str(tmp_path))
    text = (tmp_path / "connections.yaml").read_text()
    (tmp_path / "connections.yaml").write_text(
        re.sub(r"^#( {2,})", r"\1", text.replace("connections: []", "connections:"), flags=re.MULTILINE)
    )
    (tmp_path / "secrets" / "cmms_key").write_text("a-key")
    done = run("check", "--config", str(tmp_path / "fieldgate.yaml"), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [each["connection"] for each in json.loads(done.stdout)["connections"]] == ["acme-cmms"]


@pytest.mark.parametrize("present", ["fieldgate.yaml", ".env", "secrets/encryption_key"])
def test_init_never_overwrites_and_then_writes_nothing(tmp_path: Path, present: str) -> None:
    (tmp_path / present).parent.mkdir(exist_ok=True)
    (tmp_path / present).write_text("mine")
    done = run("init", str(tmp_path))
    assert done.returncode == 2 and present in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / present).read_text() == "mine"
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == [present]


@pytest.mark.parametrize(
    "options",
    [
        ("--customer", "a b"),
        ("--instance", "x/y"),
        ("--broker", "tcp://b:1"),
        ("--broker", "mqtt://b:1\nallow: x"),
        ("--username", 'a"\nb: c'),
        ("--dsn", "mysql://x"),
    ],
)
def test_init_refuses_what_no_configuration_could_hold(tmp_path: Path, options: tuple[str, str]) -> None:
    done = run("init", str(tmp_path / "g"), *options)
    assert done.returncode == 2 and options[0] in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "g").exists()


def test_init_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("init", str(tmp_path / "file" / "below"))
    assert done.returncode == 2 and "can be written" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("written", "meant"), [("doctr", "doctor"), ("conections", "connections")])
def test_a_command_that_there_is_not_is_answered_with_what_is_near(written: str, meant: str) -> None:
    done = run(written)
    assert done.returncode == 2 and f"'{meant}'" in done.stderr
