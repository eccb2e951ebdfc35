"""Credentials, tokens, and what a connector is given in place of a fixed secret: tokens that the engine
refreshes, and the gate that counts failed logons.

Secrets here are in clear: none is part of a repr.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from gateway.model.address import ANYWHERE, Reach

if TYPE_CHECKING:
    from gateway.model.connector import Auth

REFRESH_AT = 0.8
_JITTER = 0.1
_MARGIN = 0.05
_MARGIN_CAP_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a customer gave for one system. A new one has the next generation; a generation never changes.

    `reach`: which addresses its own addresses (`token_url`, ...) may lead to.
    """

    generation: int
    type: Auth
    values: Mapping[str, str] = field(repr=False)
    expires_at: datetime | None = None
    reach: Reach = ANYWHERE


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenGrant:
    """An authorization server's answer. `refresh_token` None: it gave none, the one before stays good.
    Lifetimes count from the request.
    """

    access_token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires_in_seconds: float | None = None
    scope: str | None = None
    refresh_expires_in_seconds: float | None = None


class TokenExchange(Protocol):
    """The HTTP side of a refresh. The engine brings the single flight, the lease and the storing."""

    async def refresh(
        self, credential: Credential, refresh_token: str | None, *, timeout_seconds: float
    ) -> TokenGrant:
        """One request. `refresh_token` None: client credentials.

        Raises AuthRefused(final=True) on invalid_grant, BadConfiguration on invalid_client, RateLimited,
        Unavailable when nothing was done, OutcomeUnknown when the request was sent and no definite answer
        came.
        """
        ...

    async def revoke(self, credential: Credential, token: str, *, timeout_seconds: float) -> None:
        """The token, and what was given with it, is good no more. Raises as `refresh` does."""
        ...


class TokenSource(Protocol):
    """Access tokens of one connection."""

    async def access_token(self, *, refused: str | None = None) -> str:
        """A token that is good as far as is known. `refused` is the one that the system just answered with
        401: asks for one forced refresh.

        Raises AuthRefused, Unavailable, RateLimited, BadConfiguration, PermissionDenied (by the authorization
        server).
        """
        ...


class Logon(Protocol):
    """One call that carries a technical user's password. Neither said: the call never told."""

    def refused(self) -> None:
        """The system refused the user or the password."""
        ...

    def accepted(self) -> None:
        """The system let the user in."""
        ...


class LogonGate(Protocol):
    """Stands before every call that carries a technical user's password, so that the system never locks the
    user.
    """

    def attempt(self, operation: str = "call", /) -> AbstractAsyncContextManager[Logon]:
        """`operation`: of the call. One that is let in says nothing of another that was refused.

        Entering raises AuthRefused when two logons have failed already with this generation of the
        credential.
        """
        ...


def refresh_after(lifetime_seconds: float, *, rand: float) -> float:
    """Seconds after which a token is refreshed: 80 % of its lifetime, up to a tenth less so that connections
    do not refresh together.

    `rand` is uniform in [0, 1).
    """
    return lifetime_seconds * REFRESH_AT * (1.0 - _JITTER * rand)


def usable_for(lifetime_seconds: float) -> float:
    """Seconds in which a call may still begin with a token: its lifetime less what a call takes."""
    return lifetime_seconds - min(_MARGIN_CAP_SECONDS, lifetime_seconds * _MARGIN)


def unrefreshable(had_token: bool) -> str:
    """Why there is no refresh token, and what to do about it."""
    if had_token:
        return (
            "the authorization server gave no refresh token: ask for one in `scope` (often `offline_access`),"
            " and log in again"
        )
    return "nobody has logged in on the system's own page yet: make a reconnect link, and log in through it"
