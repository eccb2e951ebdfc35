"""What HTTP needs of rooms that it does not know: the daemon, the doctor, and logins by an identity provider,
whose code is loaded only where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.model.connector import Manifest
from gateway.model.diagnosis import Report
from gateway.model.identity import LoginDeparture, ProvenLogin, ProvenLogout


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One line of the catalogue: a connector's manifest and the JSON Schemas of what may be set."""

    manifest: Manifest
    settings_schema: Mapping[str, object]
    credentials_schema: Mapping[str, object]


class Observed(Protocol):
    """The daemon, as health and metrics show it."""

    async def alive(self) -> None:
        """Returns when the loop that takes in telemetry has turned. Raises
        RequestRefused("gateway.overloaded") when it does not.
        """

    async def checks(self) -> dict[str, bool]:
        """Which parts are well, by name; ready when all are."""

    async def exposition(self, accept: str) -> tuple[str, str]:
        """The metrics in what `accept` asks for, and their media type."""


class LoginsPort(Protocol):
    """`gateway.identity.logins.Logins`. What begins or ends a login raises ProviderAway, LoginRefused."""

    @property
    def title(self) -> str: ...
    @property
    def host(self) -> str: ...
    async def begin(self, next_path: str) -> LoginDeparture: ...
    async def finish(
        self, *, state: str, code: str | None, kept: str, issuer: str | None, error: str | None
    ) -> ProvenLogin: ...
    async def prove_logout(self, token: str) -> ProvenLogout: ...
    async def logout_url(self) -> str | None: ...


class Doctoring(Protocol):
    """`gateway.doctor.Doctor`."""

    async def report(self) -> Report:
        """What is not as it should be; made anew at most once in some seconds."""
