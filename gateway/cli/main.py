"""The command `fieldgate`: imports the module of the command that is asked for, and turns errors into exit
codes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Annotated

import typer
from typer.completion import completion_init  # type: ignore[attr-defined]  # what its own option uses

from gateway.model.errors import ConfigError, FieldgateError, fault_of

COMMANDS = (
    "init",
    "run",
    "demo",
    "check",
    "doctor",
    "explain",
    "sources",
    "discover",
    "migrate",
    "apply",
    "connections",
    "sync",
    "records",
    "dead-letters",
    "credits",
    "incidents",
    "alerts",
    "token",
    "simulate",
    "bench",
    "keys",
    "login",
    "devices",
    "webhooks",
    "events",
    "completion",
)
"""Each is `gateway.cli.<name>` (with `_` for `-`), which has a function of that name, or `app` where the
command has commands of its own.
"""

COMPLETE = "_FIELDGATE_COMPLETE"
EXIT_FAILURE = 1
EXIT_CONFIGURATION = 2


def main() -> None:
    """Runs the command line. Exit codes: 0 done, 1 failure, 2 a fault of configuration or usage, 130
    interrupted.
    """
    try:
        (build_completing() if COMPLETE in os.environ else build(sys.argv[1:]))()
    except (FieldgateError, BaseExceptionGroup) as error:
        # here and not in an `except*` of each command: Python 3.11.2 wraps what is raised in one in a group
        fault = fault_of(error)
        if fault is None:
            raise
        _complain(str(fault))
        sys.exit(EXIT_CONFIGURATION if isinstance(fault, ConfigError) else EXIT_FAILURE)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(EXIT_FAILURE)
    except KeyboardInterrupt:
        sys.exit(130)


def build_completing() -> typer.Typer:
    """The command line for a shell that asks how a line goes on: with the one command that stands there, or
    with the names of all. None of their modules is imported for that: whoever presses a key waits for it.
    """
    completion_init()
    words = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    asked = words.split()[1:2]
    if asked and asked[0] in COMMANDS:
        return build(asked)
    app = typer.Typer(add_completion=False)
    for name in COMMANDS:
        app.command(name)(lambda: None)
    return app


def build(arguments: Sequence[str]) -> typer.Typer:
    """The command line with the one command that `arguments` ask for, or with all of them (for help and for a
    typing error).
    """
    app = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True
    )
    app.callback()(_root)
    asked = arguments[0] if arguments else ""
    for name in (asked,) if asked in COMMANDS else COMMANDS:
        place = f"gateway.cli.{name.replace('-', '_')}"
        if find_spec(place) is None:
            continue
        module = import_module(place)
        group = getattr(module, "app", None)
        if isinstance(group, typer.Typer):
            app.add_typer(group, name=name)
        else:
            app.command(name, context_settings=getattr(module, "CONTEXT_SETTINGS", None))(
                getattr(module, name)
            )
    return app


def _print_version(asked: bool) -> None:
    if asked:
        print(f"fieldgate {version('fieldgate')}")
        raise typer.Exit


def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and leave.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """An event-driven MQTT gateway daemon: durable telemetry in, exactly-once syncs out."""


def _complain(text: str) -> None:
    for line in text.splitlines():
        print(f"fieldgate: {line}", file=sys.stderr)
