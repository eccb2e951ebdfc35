"""How a call carries its credential: a fixed header, a token that is refreshed once when refused, or a
technical user whose logons are counted.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from connectors.kit.answer import Answer
from gateway.model.connector import ConnectorSettings
from gateway.model.credential import Logon, LogonGate, TokenSource
from gateway.model.errors import AuthRefused, PermissionDenied

Send = Callable[[Mapping[str, str]], Awaitable[Answer]]
MAX_FAILED_LOGONS = 2


class Authorization(Protocol):
    """Makes a call with the credential's headers."""

    async def call(self, send: Send, operation: str = "call", /) -> Answer:
        """`send` is given the headers to add; it may be called a second time. `operation`: of the call.
        Raises what it raises, and AuthRefused.
        """
        ...


class Unattended:
    """Nothing to add: the connection itself is authorised, by a client certificate."""

    async def call(self, send: Send, _operation: str = "call", /) -> Answer:
        """Once."""
        return await send({})


class Fixed:
    """The same headers each time: an API key."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    async def call(self, send: Send, _operation: str = "call", /) -> Answer:
        """Once."""
        return await send(self._headers)


class Bearer:
    """A token of the engine. Refused once: a forced refresh and one replay with a header that is built again.
    Refused twice: AuthRefused.
    """

    def __init__(self, tokens: TokenSource, *, conceal: Callable[[str], None]) -> None:
        """`conceal` is told every token before it is sent."""
        self._tokens = tokens
        self._conceal = conceal

    async def call(self, send: Send, _operation: str = "call", /) -> Answer:
        """At most twice."""
        token = await self._tokens.access_token()
        try:
            return await send(self._headers(token))
        except AuthRefused as error:
            # not the token was refused: a page came in place of an answer, perhaps after the work was done
            if error.doubtful:
                raise
            token = await self._tokens.access_token(refused=token)
        return await send(self._headers(token))

    def _headers(self, token: str) -> Mapping[str, str]:
        self._conceal(token)
        return {"authorization": f"Bearer {token}"}


class Basic:
    """A technical user and its password. A refused logon is never repeated by us: systems lock the user after
    a few.
    """

    def __init__(self, user: str, password: str, gate: LogonGate | None) -> None:
        """Without `gate` the connector counts for itself."""
        secret = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._headers = {"authorization": f"Basic {secret}"}
        self._gate = gate or CountingGate()

    async def call(self, send: Send, operation: str = "call", /) -> Answer:
        """Once, through the gate."""
        async with self._gate.attempt(operation) as logon:
            try:
                answer = await send(self._headers)
            except AuthRefused as error:
                if not error.doubtful:
                    logon.refused()
                raise
            except PermissionDenied:
                logon.accepted()
                raise
            logon.accepted()
            return answer


class _Attempt:
    def __init__(self) -> None:
        self.was_refused = False

    def refused(self) -> None:
        self.was_refused = True

    def accepted(self) -> None:
        self.was_refused = False


class CountingGate:
    """At most two failed logons in the life of this credential, however many calls are under way.

    As many calls as may still fail go out at once: a failed one never gives its place back.
    """

    def __init__(self) -> None:
        self._failed = 0
        self._places = asyncio.Semaphore(MAX_FAILED_LOGONS)

    def attempt(self, _operation: str = "call", /) -> AbstractAsyncContextManager[Logon]:
        """Waits for a place; AuthRefused when there will be none."""
        return self._attempt()

    @asynccontextmanager
    async def _attempt(self) -> AsyncIterator[Logon]:
        await self._places.acquire()
        attempt = _Attempt()
        try:
            if self._failed >= MAX_FAILED_LOGONS:
                raise AuthRefused(
                    "the system refused this user's logon twice: no further attempt is made, since a third"
                    " could lock the user"
                )
            yield attempt
        finally:
            self._failed += attempt.was_refused
            if not attempt.was_refused or self._failed >= MAX_FAILED_LOGONS:
                # after the last place is lost this wakes who waits, one after the other, to be told
                self._places.release()


def authorization_for(
    built_from: ConnectorSettings,
    *,
    conceal: Callable[[str], None],
    api_key: Callable[[str], Mapping[str, str]] | None = None,
) -> Authorization:
    """What the connection's credential asks for: tokens of the engine, a user and its password, an API key,
    or nothing (also beside a client certificate).

    `api_key` says how the system wants its key: the headers made of it.
    """
    given = built_from.credentials
    if built_from.token is not None:
        return Bearer(built_from.token, conceal=conceal)
    if "username" in given and "password" in given:
        return Basic(given["username"], given["password"], built_from.gate)
    if "api_key" in given and api_key is not None:
        return Fixed(api_key(given["api_key"]))
    return Unattended()
