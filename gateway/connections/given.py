"""What the settings of a connection name, and what may not be given: files of this machine, and a new host
without its credential.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict, Unpack, get_args
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel

from gateway.configuration import DeclaredConnection
from gateway.configuration.schema import written
from gateway.connections import syncing
from gateway.connections.building import ConnectedSystem
from gateway.model.access import Origin
from gateway.model.address import targets
from gateway.model.alert_rule import to_document as alert_document
from gateway.model.errors import RequestRefused
from gateway.model.meter import to_document
from gateway.settings import ConnectionSettings
from gateway.store.connections import Configuration, StoredConnection


class KeptSettings(TypedDict, total=False):
    """Of a connection that is there. `meters`, `alerts`: stored ones that stay as they are; `host`: what it
    was, where only the credential tells; `origin`: who gave the settings, the file where nothing is said.
    """

    meters: Sequence[Mapping[str, object]] | None
    alerts: Sequence[Mapping[str, object]] | None
    host: str
    origin: Origin


def configuration_of(
    declared: DeclaredConnection, system: ConnectedSystem, *, managed_by: str, **kept: Unpack[KeptSettings]
) -> Configuration:
    """What is stored of a checked connection."""
    wanted, meters, alerts = declared.settings, kept.get("meters"), kept.get("alerts")
    lateness = wanted.sync.lateness
    return Configuration(
        hosting=wanted.hosting,
        host=host_of(system, wanted) or kept.get("host", ""),
        delivery=system.manifest.capabilities.delivery,
        settings=dict(wanted.settings),
        sync={
            "interval": written(wanted.sync.interval),
            "initial_days": wanted.sync.initial_days,
            "lateness": None if lateness is None else written(lateness),
            **syncing.reading(wanted.sync),
        },
        meters=[to_document(rule) for rule in declared.rules] if meters is None else list(meters),
        alerts=[alert_document(rule) for rule in declared.alerts] if alerts is None else list(alerts),
        managed_by=managed_by,
        origin=kept.get("origin", Origin.TRUSTED),
        title=wanted.title or None,
    )


class ChangedMeanwhile(RequestRefused):
    """The connection was changed between the reading and the writing of a change: read it again."""

    def __init__(self, connection: str) -> None:
        super().__init__(
            "request.conflict",
            "the connection was changed meanwhile; repeat the change",
            connection=connection,
        )


class MetersOutdated(RequestRefused):
    """Somebody else changed the meters since they were read: what was made of them is not written."""

    def __init__(self, connection: str) -> None:
        super().__init__(
            "request.conflict",
            "somebody else changed the meters meanwhile: nothing was saved",
            connection=connection,
        )


def refuse_outdated(connection: str, held: Sequence[Mapping[str, object]], seen: str | None) -> None:
    """Raises MetersOutdated where the meters are not those that were seen."""
    if seen is not None and seen != meters_digest(held):
        raise MetersOutdated(connection)


def meters_digest(meters: Sequence[Mapping[str, object]]) -> str:
    """Tells whether stored meter rules are the ones that were read."""
    body = orjson.dumps(list(meters), option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def refuse_files(
    system: ConnectedSystem | None, settings: Mapping[str, object], *, held: Mapping[str, object]
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


def refuse_moved(held: StoredConnection, wanted: ConnectionSettings) -> None:
    """A customer's change of where calls go needs the credential again: what somebody else gave is not sent
    to a host that they never meant. Raises RequestRefused.
    """
    if held.credential_type != "none" and leads_elsewhere(held.settings, wanted.settings):
        raise RequestRefused(
            "request.invalid",
            "settings: calls would go to another host than before: give the credentials with the change",
            connection=held.connection,
        )


def refuse_tempted(held: StoredConnection) -> None:
    """What was given for one host is not sent to another that a customer has named since. Raises
    RequestRefused.
    """
    used = held.in_use
    if used is None or held.origin is Origin.TRUSTED:
        return
    if leads_elsewhere(used.settings, held.settings):
        raise RequestRefused(
            "request.conflict",
            "calls go to another host than when the credential was refused: give the credentials anew",
            connection=held.connection,
        )


def leads_elsewhere(before: Mapping[str, object], after: Mapping[str, object]) -> bool:
    """Whether calls by these settings go to a host that those before do not name."""
    hosts, others = ({(found.host, found.port) for found in targets(each)} for each in (after, before))
    return bool(hosts - others)


def file_settings(model: type[BaseModel]) -> list[str]:
    """The settings that name a file of this machine."""
    return [name for name, field in model.model_fields.items() if _names_file(field.annotation)]


def _names_file(annotation: object) -> bool:
    return annotation is Path or any(_names_file(part) for part in get_args(annotation))


def host_of(system: ConnectedSystem, wanted: ConnectionSettings) -> str:
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
