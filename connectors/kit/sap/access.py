"""The settings and credentials that every SAP system asks for, and the HTTP client made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, field_validator

from connectors.kit.authorization import authorization_for
from connectors.kit.credentials import NOT_SECRET, OAUTH_CLIENT, Credentials, OAuthClientCredentials
from connectors.kit.http import HttpClient
from connectors.kit.sap.documents import READER_LENGTH
from connectors.kit.settings import Block, TimeZoneName, safe_url
from connectors.kit.tls import shared_context, tls_context
from gateway.model.connector import ConnectorSettings
from gateway.model.errors import BadConfiguration
from gateway.model.inbound import InboundStream


class SapSettings(Block):
    """What both systems share of `settings`."""

    base_url: str = Field(description="https://host:port of the system, without a path.")
    client: str | None = Field(
        None,
        pattern=r"^\d{3}$",
        description="SAP client (`sap-client`); needed on premises, ignored in the public cloud.",
    )
    language: str = Field(
        "EN",
        pattern=r"^[A-Z]{2}$",
        description="Logon language: it decides the codes of units and the language of messages.",
    )
    time_zone: TimeZoneName = Field(
        "UTC", description="Zone of the system's clock, such as Europe/Berlin: SAP's times bear none."
    )
    reader: str = Field(
        "FIELDGATE",
        min_length=1,
        max_length=READER_LENGTH,
        description="Who took the reading, as the documents say.",
    )
    max_items: int = Field(100, ge=1, le=1000, description="Documents in one request.")
    future_skew_seconds: int = Field(
        60, ge=0, le=3600, description="Readings younger than this, on SAP's clock, wait."
    )
    codes: dict[str, Literal["duplicate", "future", "locked", "refused"]] = Field(
        {}, description="What further error codes of this system mean."
    )
    documents_lookback_hours: int = Field(
        24,
        ge=1,
        le=720,
        description=(
            "How far back measurement documents are read again: what is entered late, or reversed, within it"
            " is seen."
        ),
    )
    ca_file: Path | None = Field(
        None,
        description=(
            "Authority of the system's certificate, as a file of the gateway's machine: in the operator's own"
            " file only. Else the machine's authorities."
        ),
    )
    ca_pem: str | None = Field(
        None,
        max_length=65_536,
        pattern=r"^\s*-----BEGIN CERTIFICATE-----",
        description="The same as PEM text, in its place.",
    )

    @field_validator("base_url")
    @classmethod
    def _is_safe(cls, url: str) -> str:
        return safe_url(url)

    @property
    def zone(self) -> ZoneInfo:
        """Of `time_zone`."""
        return ZoneInfo(self.time_zone)

    @property
    def skew(self) -> timedelta:
        """Of `future_skew_seconds`."""
        return timedelta(seconds=self.future_skew_seconds)

    def streams(self, declared: Sequence[InboundStream]) -> tuple[InboundStream, ...]:
        """The manifest's, with `documents_lookback_hours`."""
        lookback = timedelta(hours=self.documents_lookback_hours)
        return tuple(
            replace(stream, lookback=lookback) if stream.name == "measurement_documents" else stream
            for stream in declared
        )

    @property
    def parameters(self) -> dict[str, str]:
        """What goes into the query of every request."""
        return {**({"sap-client": self.client} if self.client else {}), "sap-language": self.language}


class UserCredentials(Credentials):
    """A technical user."""

    username: SecretStr = Field(min_length=1, description="The technical (communication) user.")
    password: SecretStr = Field(min_length=1, description="Its password.")


class AnyCredentials(OAuthClientCredentials):
    """One of three kinds, each whole: a technical user, an OAuth 2.0 client (the gateway gets the tokens), a
    client certificate.
    """

    kinds: ClassVar = {
        "basic": (("username", "password"), ()),
        "oauth2_client_credentials": OAUTH_CLIENT,
        "client_certificate": (("certificate", "private_key"), ()),
    }

    username: SecretStr | None = Field(None, min_length=1, description="The communication user.")
    password: SecretStr | None = Field(None, min_length=1, description="Its password.")
    certificate: SecretStr | None = Field(None, min_length=1, description="PEM, with its chain.")
    private_key: SecretStr | None = Field(None, min_length=1, description="PEM, not encrypted.")


def open_client(
    settings: SapSettings, credentials: AnyCredentials | UserCredentials, built_from: ConnectorSettings
) -> HttpClient:
    """A client whose calls carry the credential. Raises BadConfiguration."""
    given = {name: value.get_secret_value() for name, value in credentials if value is not None}
    if built_from.token is None and not {"username", "certificate"} & given.keys():
        raise BadConfiguration(
            "credentials: a user and its password, an OAuth 2.0 client, or a client certificate is needed"
        )
    tls = None
    if "certificate" in given:
        tls = tls_context(
            ca_file=settings.ca_file,
            ca_pem=settings.ca_pem,
            certificate=given.get("certificate"),
            private_key=given.get("private_key"),
        )
    elif settings.ca_file is not None or settings.ca_pem is not None:
        tls = shared_context(ca_file=settings.ca_file, ca_pem=settings.ca_pem)
    hidden = [value for name, value in given.items() if name not in NOT_SECRET]
    http = HttpClient(
        settings.base_url,
        headers={},
        secrets=hidden,
        timeout_seconds=built_from.timeout_seconds,
        observe=built_from.observe,
        tls=tls,
        reach=built_from.settings_reach,
    )
    http.authorize(authorization_for(built_from, conceal=http.conceal))
    return http
