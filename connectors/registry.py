"""The systems that can be connected: an explicit table, no discovery and no import side effects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pydantic import BaseModel

from connectors.http_json import connector as http_json
from connectors.http_json.settings import HttpJsonCredentials, HttpJsonSettings
from connectors.maintainx import connector as maintainx
from connectors.maintainx.settings import MaintainXCredentials, MaintainXSettings
from connectors.odata import connector as odata
from connectors.odata.settings import ODataCredentials, ODataSettings
from connectors.postgres import connector as postgres
from connectors.postgres.settings import PostgresCredentials, PostgresSettings
from connectors.sap_ecc import connector as sap_ecc
from connectors.sap_ecc.settings import EccCredentials, EccSettings
from connectors.sap_s4hana import connector as sap_s4hana
from connectors.sap_s4hana.settings import S4hanaCredentials, S4hanaSettings
from connectors.tryton import connector as tryton
from connectors.tryton.settings import TrytonCredentials, TrytonSettings
from gateway.model.connector import Connector, ConnectorSettings, Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """What the engine needs of one system. `build` opens no connection; it raises BadConfiguration for
    settings that cannot work.
    """

    manifest: Manifest
    build: Callable[[ConnectorSettings], Connector]
    settings_model: type[BaseModel]
    credentials_model: type[BaseModel]


def _table(*systems: System) -> Mapping[str, System]:
    return MappingProxyType({system.manifest.system: system for system in systems})


SYSTEMS: Mapping[str, System] = _table(
    System(
        manifest=http_json.MANIFEST,
        build=http_json.build,
        settings_model=HttpJsonSettings,
        credentials_model=HttpJsonCredentials,
    ),
    System(
        manifest=maintainx.MANIFEST,
        build=maintainx.build,
        settings_model=MaintainXSettings,
        credentials_model=MaintainXCredentials,
    ),
    System(
        manifest=odata.MANIFEST,
        build=odata.build,
        settings_model=ODataSettings,
        credentials_model=ODataCredentials,
    ),
    System(
        manifest=postgres.MANIFEST,
        build=postgres.build,
        settings_model=PostgresSettings,
        credentials_model=PostgresCredentials,
    ),
    System(
        manifest=sap_ecc.MANIFEST,
        build=sap_ecc.build,
        settings_model=EccSettings,
        credentials_model=EccCredentials,
    ),
    System(
        manifest=sap_s4hana.MANIFEST,
        build=sap_s4hana.build,
        settings_model=S4hanaSettings,
        credentials_model=S4hanaCredentials,
    ),
    System(
        manifest=tryton.MANIFEST,
        build=tryton.build,
        settings_model=TrytonSettings,
        credentials_model=TrytonCredentials,
    ),
)
