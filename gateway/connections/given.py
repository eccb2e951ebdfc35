"""What the settings and credentials of a connection name: files of this machine, and the host that calls go to."""

from __future__ import annotations

from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

from pydantic import BaseModel

from gateway.connections.links import System
from gateway.settings import ConnectionSettings


def file_settings(model: type[BaseModel]) -> list[str]:
    """The settings that name a file of this machine."""
    return [name for name, field in model.model_fields.items() if _names_file(field.annotation)]


def _names_file(annotation: object) -> bool:
    return annotation is Path or any(_names_file(part) for part in get_args(annotation))


def host_of(system: System, wanted: ConnectionSettings) -> str:
    """The host that calls go to, for breakers and incidents: of the first address in the settings, or of a
    DSN. Empty where there is none.
    """
    settings = system.settings_model.model_validate(wanted.settings).model_dump(mode="json")
    texts = [*settings.values(), *wanted.credentials.resolved().values()]
    found = (_hostname(text) for text in texts if isinstance(text, str) and "://" in text)
    return next((host for host in found if host), "")


def _hostname(text: str) -> str | None:
    """Of an address; None of a text that is none, such as a password with `://[` in it."""
    try:
        return urlsplit(text).hostname
    except ValueError:
        return None
