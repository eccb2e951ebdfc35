"""The command `fieldgate`: imports the module of the command that is asked for, and turns errors into exit
codes.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from typer._click.exceptions import NoArgsIsHelpError, UsageError
from typer.completion import completion_init  # type: ignore[attr-defined]  # what its own option uses
from typer.core import TyperGroup

from gateway.model.errors import BrokerRefused, ConfigError, FieldgateError, StoreUnavailable, fault_of

SECTIONS = {
    "Begin": ("demo", "init", "check", "run", "doctor", "completion"),
    "Devices and what they send": ("discover", "explain", "sources", "simulate", "devices", "dead-letters"),
    "Systems that are connected": (
        "systems",
        "connections",
        "apply",
        "connect-link",
        "sync",
        "records",
        "credits",
    ),
    "What happens": ("events", "alerts", "incidents", "webhooks"),
    "Several gateways": ("customer", "cells"),
    "Access, keys and the database": ("login", "token", "keys", "migrate", "bench"),
}
COMMANDS = tuple(name for names in SECTIONS.values() for name in names)
"""Each is `gateway.cli.<name>` (with `_` for `-`), which has a function of that name, or `app` where the
command has commands of its own.
"""

WHOLE = 1000
"""Characters of a command's first sentence that its list shows."""

COMPLETE = "_FIELDGATE_COMPLETE"
EXIT_FAILURE = 1
EXIT_CONFIGURATION = 2


def main() -> None:
    """Runs the command line. Exit codes: 0 done, 1 failure, 2 a fault of configuration or usage, 130
    interrupted.
    """
    try:
        if COMPLETE in os.environ:
            build_completing()()
        sys.exit(build(sys.argv[1:])(standalone_mode=False))
    except typer.Abort:
        _complain("nothing was done")
        sys.exit(EXIT_FAILURE)
    except NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except UsageError as error:
        _complain(_usage(error))
        sys.exit(error.exit_code)
    except (FieldgateError, BaseExceptionGroup) as error:
        # here and not in an `except*` of each command: Python 3.11.2 wraps what is raised in one in a group
        fault = fault_of(error)
        if fault is None:
            raise
        advice = ""  # a command asks once; the daemon waits, and says so in its log
        if isinstance(fault, StoreUnavailable):
            advice = "; start PostgreSQL or correct database.dsn"
        elif isinstance(fault, BrokerRefused):
            advice = "; start the broker or correct broker.url"
        _complain(f"{fault}{advice}")
        sys.exit(EXIT_CONFIGURATION if isinstance(fault, ConfigError) else EXIT_FAILURE)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(EXIT_FAILURE)
    except KeyboardInterrupt:
        sys.exit(130)


class CommandGroup(TyperGroup):
    """Lists commands with the whole of what each does, those of the program by what they are for."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Instead of what cuts each off at the edge of the screen."""
        known = self.commands.keys()
        sections = SECTIONS if known >= {*COMMANDS} else {"Commands": tuple(known)}
        for title, names in sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(WHOLE)) for name in names])


def build_completing() -> typer.Typer:
    """The command line for a shell that asks how a line goes on: with the one command that stands there, or
    with the names of all. None of their modules is imported for that: whoever presses a key waits for it.
    """
    completion_init()
    words = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    asked = words.split()[1:2]
    if asked and asked[0] in COMMANDS:
        return build(asked)
    return _named(typer.Typer(add_completion=False))


def _named(app: typer.Typer) -> typer.Typer:
    """With the names of all commands and nothing behind them."""
    for name in COMMANDS:
        app.command(name)(lambda: None)
    return app


def build(arguments: Sequence[str]) -> typer.Typer:
    """The command line with the one command that `arguments` ask for, or, for help, with all of them. Names
    are enough to say which of them was meant by a typing error, and the version needs none.
    """
    app = typer.Typer(
        cls=CommandGroup,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        no_args_is_help=True,
    )
    app.callback()(_root)
    asked = arguments[0] if arguments else ""
    if asked and not asked.startswith("-") and asked not in COMMANDS:
        return _named(app)
    wanted: Collection[str] = COMMANDS
    if asked in COMMANDS:
        wanted = (asked,)
    elif asked == "--version":
        wanted = ()
    gc.disable()  # what importing makes is no garbage: looking for some takes a tenth of the time
    for name in wanted:
        place = f"gateway.cli.{name.replace('-', '_')}"
        if find_spec(place) is None:
            continue
        module = import_module(place)
        group = getattr(module, "app", None)
        if isinstance(group, typer.Typer):
            app.add_typer(group, name=name, cls=CommandGroup)
        else:
            app.command(name, context_settings=getattr(module, "CONTEXT_SETTINGS", None))(
                getattr(module, name)
            )
    gc.enable()
    return app


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

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
    """An event-driven MQTT gateway daemon: telemetry stored durably, readings sent to customers' systems."""


def _usage(error: UsageError) -> str:
    """In one line, with the command whose help says more."""
    asked = error.ctx.command_path if error.ctx is not None else "fieldgate"
    words = " ".join(error.format_message().split()).replace("Value error, ", "")
    return f"{words.rstrip('.')}; `{asked} --help` says more"


def _complain(text: str) -> None:
    for line in text.splitlines():
        print(f"fieldgate: {line}", file=sys.stderr)
