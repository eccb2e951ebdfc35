"""What the settings of a connection name, and what may not be given: files of this machine, and a new host
without its credential.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

from pydantic import BaseModel

from gateway.connections.links import System
from gateway.model.address import targets
from gateway.model.errors import RequestRefused
from gateway.settings import ConnectionSettings
from gateway.store.connections import Held


class ChangedMeanwhile(RequestRefused):
    """The connection was changed between the reading and the writing of a change: read it again."""

    def __init__(self, connection: str) -> None:
        super().__init__(
            "request.conflict",
            "the connection was changed meanwhile; repeat the change",
            connection=connection,
        )


def refuse_files(
    system: System | None, settings: Mapping[str, object], *, held: Mapping[str, object]
) -> None:
    """Files of this machine are named by the operator's own file only; what is held already may stay. Raises
    RequestRefused.
    """
    for name in () if system is None else file_settings(system.settings_model):
        if settings.get(name) not in (None, held.get(name)):
            advice = f"; give its text as {name.removesuffix('_file')}_pem" if name == "ca_file" else ""
            raise RequestRefused(
                "request.invalid",
                f"settings.{name}: a file of the gateway's machine is named by the gateway's own"
                f" configuration only{advice}",
            )


def refuse_moved(held: Held, wanted: ConnectionSettings) -> None:
    """A customer's change of where calls go needs the credential again: what somebody else gave is not sent
    to a host that they never meant. Raises RequestRefused.
    """
    before, after = ({(t.host, t.port) for t in targets(s)} for s in (held.settings, wanted.settings))
    if after - before and held.credential_type != "none":
        raise RequestRefused(
            "request.invalid",
            "settings: calls would go to another host than before: give the credentials with the change",
            connection=held.connection,
        )


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
