"""`fieldgate init`: the files of a first start, commented, with a key. It never overwrites."""

from __future__ import annotations

import base64
import os
import re
import secrets
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import orjson
import typer

from gateway.cli.operate import Json
from gateway.configuration.usable import KEY_BYTES
from gateway.embedded import BROKER_FILE, DSN_FILE
from gateway.model.dsn import fault_of
from gateway.model.errors import ConfigError
from gateway.settings import BrokerSettings
from gateway.settings_base import IDENTIFIER

SECRET_MODE, PLAIN_MODE, FOLDER_MODE = 0o600, 0o644, 0o700
BROKER = "mqtt://localhost:1883"
DSN = "postgresql://fieldgate:change-me@localhost:5432/fieldgate"


def init(
    directory: Annotated[Path, typer.Argument(help="Where the files are written; made where it is missing.")],
    customer: Annotated[
        list[str] | None, typer.Option(help="Whose telemetry is taken; repeat it. By default acme.")
    ] = None,
    instance: Annotated[
        str, typer.Option(help="The gateway's name, equal for all its replicas.")
    ] = "plant-1",
    broker: Annotated[str, typer.Option(help="mqtt:// or mqtts://, host and port.")] = BROKER,
    username: Annotated[str | None, typer.Option(help="Its account at the broker.")] = None,
    dsn: Annotated[str, typer.Option(help="PostgreSQL; written into a file of its own.")] = DSN,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="For `run --embedded`: a broker and a PostgreSQL of our own.")
    ] = False,
    json: Json = False,
) -> None:
    """Write a commented configuration, a sample of connections, a new encryption key, and what docker compose
    needs to use them. What is there already is left as it is (exit code 2, nothing is written).

    Examples: fieldgate init here --embedded; fieldgate init /etc/fieldgate --customer acme --broker
    mqtts://broker:8883 --username gateway
    """
    if embedded and (broker != BROKER or dsn != DSN or username is not None):
        raise ConfigError(
            "--embedded brings a broker and a database: leave out --broker, --username and --dsn"
        )
    values = _values(customer or ["acme"], instance, broker, username, dsn, embedded=embedded)
    wanted = _files(directory, values, dsn, username, embedded=embedded)
    if present := sorted(name for name in wanted if (directory / name).exists()):
        raise ConfigError(
            f"{directory}: {', '.join(present)} is there already: nothing was written; name another directory"
        )
    _write(directory, wanted)
    if json:
        print(orjson.dumps({"directory": str(directory), "files": sorted(wanted)}).decode())
        return
    for name in sorted(wanted):
        print(f"wrote {directory / name}")
    if embedded:
        place = f"--data-dir {directory / 'var'} --config {directory / 'fieldgate.yaml'}"
        print(f"  fieldgate run --embedded {place}")
        return
    left = ["secrets/database_dsn"] if dsn == DSN else []
    left += ["secrets/broker_password"] if username is not None else []
    if left:
        print(f"put what is yours into {' and '.join(left)}, then:")
    for command in ("check", "doctor", "run"):
        print(f"  fieldgate {command} --config {directory / 'fieldgate.yaml'}")


def _values(
    customers: list[str], instance: str, broker: str, username: str | None, dsn: str, *, embedded: bool
) -> Mapping[str, str]:
    """What the templates are filled with. Raises ConfigError for what no configuration could hold."""
    for option, names in (("--customer", customers), ("--instance", [instance])):
        if wrong := [name for name in names if not re.fullmatch(IDENTIFIER, name)]:
            raise ConfigError(f"{option} {wrong[0]}: letters, digits and ._- only, 64 at most")
    try:
        BrokerSettings(url=broker)
    except ValueError:
        raise ConfigError(f"--broker {broker}: expected mqtt://host:port or mqtts://host:port") from None
    if (fault := fault_of(dsn)) is not None:
        raise ConfigError(f"--dsn: {fault}")
    if username is not None and not re.fullmatch(r"[\w.@-]{1,100}", username):
        raise ConfigError("--username: letters, digits and ._@- only, 100 at most")
    account = (
        '  # username: gateway\n  # password: "${file:secrets/broker_password}"'
        if username is None
        else f'  username: {orjson.dumps(username).decode()}\n  password: "${{file:secrets/broker_password}}"'
    )
    return {
        "instance": instance,
        "broker": f'"${{file:var/{BROKER_FILE}}}"  # written by run --embedded' if embedded else broker,
        "dsn": (
            f'"${{file:var/{DSN_FILE}}}"  # written by run --embedded'
            if embedded
            else '"${file:secrets/database_dsn}"'
        ),
        "account": account,
        "customers": ", ".join(dict.fromkeys(customers)),
        "customer": customers[0],
    }


def _files(
    directory: Path, values: Mapping[str, str], dsn: str, username: str | None, *, embedded: bool
) -> Mapping[str, tuple[str, int]]:
    """Content and mode by name."""
    key = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
    found = {
        "fieldgate.yaml": (_filled("fieldgate.yaml", values), PLAIN_MODE),
        "connections.yaml": (_filled("connections.yaml", values), PLAIN_MODE),
        "compose.override.yaml": (_filled("compose.override.yaml", values), PLAIN_MODE),
        ".env": (
            _filled(
                "env",
                {
                    "directory": str(directory.absolute()),
                    "user": f"{os.getuid()}:{os.getgid()}",
                },
            ),
            SECRET_MODE,
        ),
        "secrets/encryption_key": (f"{key}\n", SECRET_MODE),
        "secrets/database_dsn": (f"{dsn}\n", SECRET_MODE),
    }
    if embedded:
        for name in ("compose.override.yaml", ".env", "secrets/database_dsn"):
            del found[name]
    if username is not None:
        found["secrets/broker_password"] = ("change-me\n", SECRET_MODE)
    return found


def _filled(name: str, values: Mapping[str, str]) -> str:
    """The template; `@name@` stands for a value, since `${...}` is the configuration's own."""
    text = files("gateway.cli").joinpath("init_files", name).read_text(encoding="utf-8")
    return re.sub(r"@([a-z]+)@", lambda match: values[match[1]], text)


def _write(directory: Path, wanted: Mapping[str, tuple[str, int]]) -> None:
    """Raises ConfigError where a file cannot be written; one that appears meanwhile is not overwritten."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "secrets").mkdir(mode=FOLDER_MODE, exist_ok=True)
        for name, (content, mode) in wanted.items():
            opened = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(opened, "w", encoding="utf-8") as file:
                file.write(content)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or directory}: {error.strerror}; name a directory that can be written"
        ) from error
