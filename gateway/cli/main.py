"""The command `fieldgate`: imports the module of the command that is asked for, and turns errors into exit
codes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Annotated

import typer

from gateway.model.errors import ConfigError, FieldgateError, fault_of

COMMANDS = (
    "run",
    "demo",
    "check",
    "explain",
    "sources",
    "discover",
    "migrate",
    "apply",
    "connections",
    "connect-link",
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
)
"""Each is `gateway.cli.<name>` (with `_` for `-`), which has a function of that name, or `app` where the
command has commands of its own.
"""

EXIT_FAILURE = 1
EXIT_CONFIGURATION = 2


def main() -> None:
    """Runs the command line. Exit codes: 0 done, 1 failure, 2 a fault of configuration or usage, 130
    interrupted.
    """
    try:
        build(sys.argv[1:])()
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
