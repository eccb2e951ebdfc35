"""The systems that can be connected: an explicit table, no discovery and no import side effects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from pydantic import BaseModel

from connectors.kit.manifest import load_manifest
from gateway.model.connector import Connector, ConnectorSettings, Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemCode:
    """What is written for one system. `build` opens no connection; it raises BadConfiguration for settings
    that cannot work.
    """

    build: Callable[[ConnectorSettings], Connector]
    settings_model: type[BaseModel]
    credentials_model: type[BaseModel]


class System:
    """What the engine needs of one system. Its code is imported when it is first asked for: most commands
    need none, and all systems together are half of what such a command imports.
    """

    def __init__(self, manifest: Manifest, code: Callable[[], SystemCode]) -> None:
        self.manifest = manifest
        self._import = code

    @cached_property
    def _code(self) -> SystemCode:
        return self._import()

    def load(self) -> None:
        """Imports it."""
        _ = self._code

    @property
    def build(self) -> Callable[[ConnectorSettings], Connector]:
        """A connector; see SystemCode."""
        return self._code.build

    @property
    def settings_model(self) -> type[BaseModel]:
        """What `settings` of a connection may be."""
        return self._code.settings_model

    @property
    def credentials_model(self) -> type[BaseModel]:
        """What `credentials` of a connection may be."""
        return self._code.credentials_model


def _http_json() -> SystemCode:
    from connectors.http_json.connector import build
    from connectors.http_json.settings import HttpJsonCredentials, HttpJsonSettings

    return SystemCode(build=build, settings_model=HttpJsonSettings, credentials_model=HttpJsonCredentials)


def _maintainx() -> SystemCode:
    from connectors.maintainx.connector import build
    from connectors.maintainx.settings import MaintainXCredentials, MaintainXSettings

    return SystemCode(build=build, settings_model=MaintainXSettings, credentials_model=MaintainXCredentials)


def _odata() -> SystemCode:
    from connectors.odata.connector import build
    from connectors.odata.settings import ODataCredentials, ODataSettings

    return SystemCode(build=build, settings_model=ODataSettings, credentials_model=ODataCredentials)


def _postgres() -> SystemCode:
    from connectors.postgres.connector import build
    from connectors.postgres.settings import PostgresCredentials, PostgresSettings

    return SystemCode(build=build, settings_model=PostgresSettings, credentials_model=PostgresCredentials)


def _sap_ecc() -> SystemCode:
    from connectors.sap_ecc.connector import build
    from connectors.sap_ecc.settings import EccCredentials, EccSettings

    return SystemCode(build=build, settings_model=EccSettings, credentials_model=EccCredentials)


def _sap_s4hana() -> SystemCode:
    from connectors.sap_s4hana.connector import build
    from connectors.sap_s4hana.settings import S4hanaCredentials, S4hanaSettings

    return SystemCode(build=build, settings_model=S4hanaSettings, credentials_model=S4hanaCredentials)


def _tryton() -> SystemCode:
    from connectors.tryton.connector import build
    from connectors.tryton.settings import TrytonCredentials, TrytonSettings

    return SystemCode(build=build, settings_model=TrytonSettings, credentials_model=TrytonCredentials)


def _table(**systems: Callable[[], SystemCode]) -> Mapping[str, System]:
    return MappingProxyType(
        {name: System(load_manifest(f"connectors.{name}"), code) for name, code in systems.items()}
    )


SYSTEMS: Mapping[str, System] = _table(
    http_json=_http_json,
    maintainx=_maintainx,
    odata=_odata,
    postgres=_postgres,
    sap_ecc=_sap_ecc,
    sap_s4hana=_sap_s4hana,
    tryton=_tryton,
)


def load() -> None:
    """Imports the code of all systems: for a process whose loop must not stand still for it later."""
    for system in SYSTEMS.values():
        system.load()
