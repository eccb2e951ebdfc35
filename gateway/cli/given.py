"""What options are given: the configuration file; names and durations, refused in a line that names them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from gateway.model.errors import ConfigError
from gateway.settings_base import Duration, Identifier

CONFIG_VARIABLE = "FIELDGATE_CONFIG"
Config = Annotated[
    Path, typer.Option(envvar=CONFIG_VARIABLE, help="The main configuration file, the daemon's.")
]
DEFAULT = Path("config/fieldgate.yaml")
"""The file where neither option nor variable names one."""


def checked_name(option: str, value: str) -> str:
    """Raises ConfigError for what is no identifier."""
    try:
        return TypeAdapter[str](Identifier).validate_python(value)
    except ValidationError as error:
        raise ConfigError(
            f"{option} {value!r}: letters, digits and . _ -, at most 64, the first a letter or digit"
        ) from error


def duration(option: str, text: str) -> timedelta:
    """More than nothing. Raises ConfigError that names the option."""
    try:
        found = TypeAdapter[timedelta](Duration).validate_python(text)
    except ValidationError as error:
        raise ConfigError(
            f"{option} {text!r}: expected a number and a unit, such as 30s, 5m, 2h or 90d"
        ) from error
    if not found:
        raise ConfigError(f"{option} {text!r}: expected more than nothing")
    return found
