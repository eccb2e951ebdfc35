"""What the settings of a connection name, what may not be given (files of this machine, and a new host
without its credential), and what was given already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypedDict, Unpack, get_args
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel

from gateway.configuration import DeclaredConnection
from gateway.configuration.schema import written
from gateway.connections import syncing
from gateway.connections.links import ConnectedSystem, credential_binding
from gateway.connections.refusals import NEEDS_CREDENTIAL
from gateway.credentials.expiry import ends_at
from gateway.credentials.vault import Vault
from gateway.model.access import Origin
from gateway.model.address import targets
from gateway.model.alert_rule import to_document as alert_document
from gateway.model.errors import BadConfiguration, RequestRefused, SealBroken
from gateway.model.meter import to_document
from gateway.settings import ConnectionSettings, CredentialSettings
from gateway.store import credentials, tokens
from gateway.store.connections import Configuration, Locked, StoredConnection
from gateway.store.pool import Connection


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
    before, after = ({(t.host, t.port) for t in targets(s)} for s in (held.settings, wanted.settings))
    if after - before and held.credential_type != "none":
        raise RequestRefused(
            "request.invalid",
            "settings: calls would go to another host than before: give the credentials with the change",
            connection=held.connection,
        )


async def same_generation(
    connection: Connection, vault: Vault, locked: Locked, given: CredentialSettings, origin: Origin
) -> int | None:
    """The generation that holds these very credentials already; None where it holds others. A refresh token
    in two generations would be redeemed twice, which a server that rotates them takes for a theft.

    What was refused is tried again as a new generation; a refresh token only where it was itself refused.
    """
    generation = locked.candidate or locked.generation
    stored = await credentials.read(connection, connection_id=locked.connection, generation=generation)
    if stored is None or (stored.type, stored.origin) != (given.type, origin):
        return None
    try:
        held = vault.open(stored.sealed, credential_binding(locked.customer, locked.connection, generation))
    except SealBroken:
        return None
    if held != given.resolved():
        return None
    if "refresh_token" in held:
        anew = await tokens.is_refused(connection, locked.connection, generation)
    else:
        anew = locked.state in NEEDS_CREDENTIAL or stored.expires_at != end_of(given)
    return None if anew else generation


def end_of(given: CredentialSettings) -> datetime | None:
    """When they end, where that is known. Raises RequestRefused."""
    stated = {} if given.expires_at is None else {"expires_at": given.expires_at}
    try:
        return ends_at(given.type, given.resolved() | stated)
    except BadConfiguration as error:
        raise RequestRefused("request.invalid", str(error)) from error


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
