"""What a connector is given in place of a fixed secret: tokens that the engine refreshes, and the gate that counts failed logons."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol


class TokenSource(Protocol):
    """Access tokens of one connection."""

    async def access_token(self, *, refused: str | None = None) -> str:
        """A token that is good as far as is known. `refused` is the one that the system just answered with 401: asks for one forced refresh.

        Raises AuthRefused, Unavailable, BadConfiguration.
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
    """Stands before every call that carries a technical user's password, so that the system never locks the user."""

    def attempt(self) -> AbstractAsyncContextManager[Logon]:
        """Entering raises AuthRefused when two logons have failed already with this generation of the credential."""
        ...
