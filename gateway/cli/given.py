"""What options are given: names and durations, each refused in one line that names the option."""

from __future__ import annotations

from datetime import timedelta

from pydantic import TypeAdapter, ValidationError

from gateway.model.errors import ConfigError
from gateway.settings_base import Duration, Identifier


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
