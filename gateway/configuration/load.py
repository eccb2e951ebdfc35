"""From the files and the environment to checked settings and declared connections, or every fault at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ValidationError

from gateway.configuration import alerts, meters, overrides, paths, secret, sources, usable
from gateway.configuration.document import LocatedDocument
from gateway.configuration.fault import ConfigurationFault, Faults, KeyPath, did_you_mean
from gateway.configuration.shape import faults_of
from gateway.model.alert_rule import AlertRule
from gateway.model.connector import Manifest
from gateway.model.meter import MeterRule
from gateway.settings import ConnectionSettings, Settings

MAX_STREAMS = 100
"""Of a connection's own, as settings take them."""

_ADVICE = "name yours with --config or FIELDGATE_CONFIG, or start from config/fieldgate.yaml of the project"


class SystemModels(Protocol):
    """What is known of a system: given by the caller, since the engine knows none."""

    @property
    def manifest(self) -> Manifest:
        """Hosting, credential types, resolution."""
        ...

    @property
    def settings_model(self) -> type[BaseModel]:
        """What `settings` of a connection may be."""
        ...

    @property
    def credentials_model(self) -> type[BaseModel]:
        """What `credentials` may be beside their type."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredConnection:
    """A connection of the configuration with its meter tables read."""

    settings: ConnectionSettings
    rules: tuple[MeterRule, ...]
    alerts: tuple[AlertRule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A configuration without faults. `path` is None when no file was read."""

    settings: Settings
    connections: tuple[DeclaredConnection, ...]
    path: Path | None


def load(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    systems: Mapping[str, SystemModels],
    fallback: Mapping[str, Mapping[str, object]] | None = None,
    secrets: Collection[str] = secret.SECTIONS,
) -> Loaded:
    """The configuration in `path` under the environment's overrides. Raises Faults (a ConfigError) with every
    fault.

    `fallback` is used where neither file nor environment says anything: {section: {key: value}}. Without a
    path it is all there is. `secrets`: the sections whose secrets the caller uses. Those of others may be
    away: they are empty then, and whether their files can be used is not asked.
    """
    folder = Path() if path is None else path.parent
    document = (
        LocatedDocument("configuration") if path is None else LocatedDocument.read(path, advice=_ADVICE)
    )
    if document.faults and not document.data:
        raise Faults(document.faults)
    unknown = overrides.apply(document, Settings, environ)
    used = secret.resolve(document, environ, folder, needed=secrets)
    for place in document.absent:
        document.leave_out(place)
    paths.anchor(document, folder)
    faults = document.faults
    settings = _settings(document, fallback or {}, faults)
    if settings is not None:
        faults.extend(sources.faults_of(settings, document))
        told = {fault.path for fault in faults}
        for fault in usable.faults_of(settings, document):
            is_asked = fault.path[0] in secrets or fault.path[0] not in secret.SECTIONS
            if is_asked and fault.path not in told:
                faults.append(fault)
                told.add(fault.path)
    connections: tuple[DeclaredConnection, ...] = ()
    name = document.data.get("connections_file")
    if isinstance(name, str) and name:
        declared = LocatedDocument.read(
            folder / name, advice="connections_file is relative to the file that names it"
        )
        used |= secret.resolve(declared, environ, folder / Path(name).parent, needed=secrets)
        paths.anchor(declared, folder / Path(name).parent)
        connections = _Connections(
            declared,
            _customers(document, settings),
            systems,
            folder / Path(name).parent,
            retention=None if settings is None else settings.telemetry.retention,
        ).read()
        faults = faults + declared.faults
    faults = faults + [fault for variable, fault in unknown.items() if variable not in used]
    if faults or settings is None:
        raise Faults(faults)
    return Loaded(settings=settings, connections=connections, path=path)


def check(
    connection: ConnectionSettings,
    *,
    settings: Settings,
    systems: Mapping[str, SystemModels],
    credentials: bool = True,
) -> DeclaredConnection:
    """A connection that came by another way than a file, checked as one in a file is. Raises Faults.

    `settings`: of the gateway. `credentials`: False where they stay as they are.
    """
    document = LocatedDocument("request")
    for index, meter in enumerate(connection.meters):
        if meter.table is not None:
            document.fault(
                ("meters", index, "table"),
                "a table is a file beside the configuration; write its meters out here",
                line=None,
            )
    if document.faults:
        raise Faults(document.faults)
    reader = _Connections(
        document,
        _customers(document, settings),
        systems,
        Path(),
        retention=settings.telemetry.retention,
    )
    reader.check_names(connection.customer, connection.system, ())
    declared = reader.complete(connection, (), credentials=credentials)
    if document.faults or declared is None:
        raise Faults(document.faults)
    return declared


def _settings(
    document: LocatedDocument, fallback: Mapping[str, Mapping[str, object]], faults: list[ConfigurationFault]
) -> Settings | None:
    data = dict(document.data)
    for section, values in fallback.items():
        given = data.get(section)
        if given is None or isinstance(given, dict):
            data[section] = {**values, **(given or {})}
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        known = {fault.path for fault in faults}
        faults.extend(fault for fault in faults_of(error, Settings, document) if fault.path not in known)
        return None


def _customers(document: LocatedDocument, settings: Settings | None) -> Collection[str] | None:
    """Who may have connections; None when anybody may, or when a fault of the main file leaves it open."""
    if settings is not None:
        return None if settings.telemetry.auto_register_customers else settings.customers
    listed = document.data.get("customers")
    return (
        [str(customer) for customer in listed]
        if isinstance(listed, list) and "telemetry" not in document.data
        else None
    )


class _Connections:
    """Reads the connections file; what is wrong is added to its document's faults."""

    def __init__(
        self,
        document: LocatedDocument,
        customers: Collection[str] | None,
        systems: Mapping[str, SystemModels],
        folder: Path,
        *,
        retention: timedelta | None = None,
    ) -> None:
        self._retention = retention
        self._document = document
        self._customers = customers
        self._systems = systems
        self._folder = folder

    def read(self) -> tuple[DeclaredConnection, ...]:
        for key in self._document.data:
            if key != "connections":
                self._fault((key,), f"unknown key{did_you_mean(key, ('connections',))}")
        listed = self._document.data.get("connections") or []
        if not isinstance(listed, list):
            self._fault(("connections",), "must be a list")
            return ()
        seen: dict[str, KeyPath] = {}
        declared: list[DeclaredConnection] = []
        for index, item in enumerate(listed):
            base: KeyPath = ("connections", index)
            connection = self._connection(item, base)
            if connection is None:
                continue
            first = seen.setdefault(connection.settings.id, base)
            if first is not base:
                self._fault(
                    (*base, "id"),
                    f"{connection.settings.id!r} is already the connection at {self._document.place(first)};"
                    " ids are unique",
                )
            declared.append(connection)
        return tuple(declared)

    def _connection(self, item: object, base: KeyPath) -> DeclaredConnection | None:
        if isinstance(item, dict):  # as written, so that this is told even beside a fault of another key
            self.check_names(item.get("customer"), item.get("system"), base)
        try:
            connection = ConnectionSettings.model_validate(item)
        except ValidationError as error:
            self._add(faults_of(error, ConnectionSettings, self._document, base))
            return None
        return self.complete(connection, base)

    def complete(
        self, connection: ConnectionSettings, base: KeyPath, *, credentials: bool = True
    ) -> DeclaredConnection | None:
        """What only the system and the other rules can tell; None for a system that is not known."""
        rules = meters.rules_of(
            connection.meters, self._document, (*base, "meters"), self._folder, self._document.faults
        )
        system = self._systems.get(connection.system)
        if system is None:
            return None
        self._check_system(connection, system, base)
        if credentials:
            connection = self._with_credentials(connection, system, base)
        self._add(meters.conflicts(rules, resolution=system.manifest.capabilities.resolution))
        self._add(meters.not_made(rules, system.manifest))
        self._add(meters.too_many_calendars(rules))
        self._add(
            meters.too_long(
                rules,
                system.manifest,
                lateness=connection.sync.lateness or timedelta(0),
                retention=self._retention,
            )
        )
        found: list[ConfigurationFault] = []
        judged = alerts.alerts_of(
            connection.alerts, system.manifest, self._document, (*base, "alerts"), found
        )
        self._add(found)
        return DeclaredConnection(
            settings=connection, rules=tuple(placed.rule for placed in rules), alerts=judged
        )

    def check_names(self, customer: object, system: object, base: KeyPath) -> None:
        """Whether the customer may have connections, and whether there is such a system."""
        if self._customers is not None and isinstance(customer, str) and customer not in self._customers:
            self._fault(
                (*base, "customer"),
                f"{customer!r} is not among the customers of the main"
                f" file{did_you_mean(customer, self._customers)}",
            )
        if isinstance(system, str) and system not in self._systems:
            self._fault((*base, "system"), f"unknown system {system!r}{did_you_mean(system, self._systems)}")

    def _check_system(self, connection: ConnectionSettings, system: SystemModels, base: KeyPath) -> None:
        manifest = system.manifest
        if connection.hosting not in manifest.hosting:
            self._fault(
                (*base, "hosting"),
                f"{manifest.title} is not offered as {connection.hosting!r}; it is"
                f" {' or '.join(manifest.hosting)}",
            )
        self._validate(system.settings_model, connection.settings, (*base, "settings"))
        self._check_streams(connection, manifest, base)

    def _check_streams(self, connection: ConnectionSettings, manifest: Manifest, base: KeyPath) -> None:
        """What `sync.pull` names has to be a stream of the system, or one that the
        settings name themselves.
        """
        own = connection.settings.get("streams")
        named = islice(own, MAX_STREAMS) if isinstance(own, Mapping) else ()
        known = {stream.name for stream in manifest.streams} | set(named)
        for index, name in enumerate(connection.sync.pull or ()):
            if name not in known:
                there = f"it has {', '.join(sorted(known))}" if known else "it has no records to read"
                self._fault(
                    (*base, "sync", "pull", index),
                    f"{manifest.title} has no stream {name!r}{did_you_mean(name, known)}; {there}",
                )

    def _with_credentials(
        self, connection: ConnectionSettings, system: SystemModels, base: KeyPath
    ) -> ConnectionSettings:
        """The connection with the type of its credentials, which a system that takes only one need not be
        told.
        """
        given, allowed = connection.credentials, system.manifest.capabilities.auth
        if "type" not in given.model_fields_set and len(allowed) == 1:
            given = given.model_copy(update={"type": allowed[0]})
        if given.type not in allowed:
            message = f"{system.manifest.title} does not take {given.type!r}; it takes {' or '.join(allowed)}"
            self._fault((*base, "credentials", "type"), message)
        else:
            self._validate(system.credentials_model, given.resolved(), (*base, "credentials"))
        return connection.model_copy(update={"credentials": given})

    def _validate(self, model: type[BaseModel], values: Mapping[str, object], base: KeyPath) -> None:
        try:
            model.model_validate(dict(values))
        except ValidationError as error:
            self._add(faults_of(error, model, self._document, base))

    def _fault(self, path: KeyPath, message: str) -> None:
        self._document.faults.append(
            ConfigurationFault(place=self._document.place(path), path=path, message=message)
        )

    def _add(self, faults: list[ConfigurationFault]) -> None:
        known = {fault.path for fault in self._document.faults}
        self._document.faults.extend(
            fault
            for fault in faults
            if not fault.path or (fault.path not in known and not self._document.is_absent(fault.path))
        )
