"""Access tokens that are always good: refreshed once per expiry over all callers and replicas, and stored
before they are used.

Callers share one refresh in process, and may be cancelled at will: it runs in a task of its own
(`gateway.credentials.token_refresh`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from weakref import WeakValueDictionary

from gateway import clock
from gateway.credentials.token_refresh import (
    TIMING,
    HeldToken,
    Refresh,
    Timing,
    TokenContext,
    TokenSubject,
    contents,
    remaining,
)
from gateway.credentials.vault import Vault
from gateway.model.backoff import full_jitter
from gateway.model.credential import Credential, TokenExchange, TokenGrant, TokenSource
from gateway.model.errors import AuthRefused, Unavailable
from gateway.store import tokens
from gateway.store.pool import Connection, Database


class Tokens:
    """The tokens of every connection, in this process."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        exchange: TokenExchange,
        *,
        owner: str,
        timing: Timing = TIMING,
        rand: Callable[[], float] = random.random,
    ) -> None:
        """`owner` is this process's alone."""
        self._context = TokenContext(
            database=database, vault=vault, exchange=exchange, owner=owner, timing=timing, rand=rand
        )
        self._sources: WeakValueDictionary[tuple[str, int], StoredTokenSource] = WeakValueDictionary()
        self._refreshes: set[asyncio.Task[HeldToken]] = set()

    def source(
        self, connection: str, customer: str, system: str, generation: int, credential: Credential
    ) -> TokenSource:
        """The connection's tokens under this generation; the same object for all who ask while one of them
        holds it.
        """
        source = self._sources.get((connection, generation))
        if source is None:
            subject = TokenSubject(
                connection=connection,
                customer=customer,
                system=system,
                generation=generation,
                credential=credential,
            )
            source = self._sources[connection, generation] = StoredTokenSource(
                subject,
                partial(self._start_refresh, subject),
                timing=self._context.timing,
                rand=self._context.rand,
            )
        return source

    async def adopt(
        self,
        connection: Connection,
        *,
        connection_id: str,
        customer: str,
        credential: Credential,
        grant: TokenGrant,
    ) -> None:
        """Within the caller's transaction, after the credential was added: the first token of its generation,
        as an authorization code gave it.
        """
        subject = TokenSubject(
            connection=connection_id,
            customer=customer,
            system="",
            generation=credential.generation,
            credential=credential,
        )
        sealed = self._context.vault.seal(contents(subject.credential, grant, None), subject.binding)
        lifetimes = remaining(grant, 0.0, rand=self._context.rand())
        await tokens.put(
            connection,
            connection_id=connection_id,
            generation=credential.generation,
            sealed=sealed,
            lifetimes=lifetimes,
        )

    async def revoke(self, connection: str, customer: str, generation: int, credential: Credential) -> bool:
        """Asks the authorization server to forget the token of a connection that ends; False where there is
        none.

        Raises ConnectorError, StoreError, SealBroken.
        """
        subject = TokenSubject(
            connection=connection, customer=customer, system="", generation=generation, credential=credential
        )
        stored = await tokens.read(self._context.database, connection, generation)
        if stored is None or stored.sealed is None:
            return False
        opened = self._context.vault.open(stored.sealed, subject.binding)
        token = opened.get("refresh_token") or opened["access_token"]
        await self._context.exchange.revoke(
            credential, token, timeout_seconds=self._context.timing.attempt_seconds
        )
        return True

    async def close(self, grace_seconds: float) -> None:
        """Lets exchanges that are under way end and be stored; cancels what outlasts the grace."""
        if self._refreshes:
            await asyncio.wait(self._refreshes, timeout=grace_seconds)
        for refresh in self._refreshes:
            refresh.cancel()
        await asyncio.gather(*self._refreshes, return_exceptions=True)

    def _start_refresh(self, subject: TokenSubject, refused: str | None) -> asyncio.Task[HeldToken]:
        """One refresh, in a task that belongs to nobody who waits for it: a caller that is cancelled must not
        take the exchange with it, since the answer may be the only refresh token that there is.
        """
        refresh = asyncio.create_task(
            Refresh(self._context, subject, refused).run(), name=f"token {subject.connection}"
        )
        self._refreshes.add(refresh)
        refresh.add_done_callback(self._refreshes.discard)
        return refresh


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A refresh, and the refused token that it was asked for, if any."""

    task: asyncio.Task[HeldToken]
    instead_of: str | None = field(repr=False)


class StoredTokenSource:
    """The tokens of one generation of one connection's credential. A TokenSource."""

    def __init__(
        self,
        subject: TokenSubject,
        start_refresh: Callable[[str | None], asyncio.Task[HeldToken]],
        *,
        timing: Timing,
        rand: Callable[[], float],
    ) -> None:
        """`start_refresh` is given the token that the system refused, if any."""
        self._subject = subject
        self._start, self._timing, self._rand = start_refresh, timing, rand
        self._held: HeldToken | None = None
        self._refresh: _UnderWay | None = None
        self._dead: AuthRefused | None = None
        self._failures = 0
        self._not_before = 0.0

    async def access_token(self, *, refused: str | None = None) -> str:
        """At once while the token is good: what is due for refreshing is refreshed beside. Else waits for the
        exchange, at most its total time.

        Raises AuthRefused(final=True) once the authorization server has refused this generation, Unavailable,
        BadConfiguration.
        """
        if self._dead is not None:
            raise self._dead
        now, held = clock.monotonic(), self._held
        if (
            held is not None
            and held.access_token != refused
            and (held.usable_until is None or now < held.usable_until)
        ):
            if (
                self._refresh is None
                and held.refresh_monotonic is not None
                and max(held.refresh_monotonic, self._not_before) <= now
            ):
                self._refresh = self._start_refresh(None)
            return held.access_token
        while True:
            if self._refresh is None:
                self._refresh = self._start_refresh(refused)
            refresh, instead_of = self._refresh.task, self._refresh.instead_of
            await asyncio.wait(
                {refresh}, timeout=max(0.0, now + self._timing.total_seconds - clock.monotonic())
            )
            if not refresh.done():
                raise Unavailable(
                    f"connection {self._subject.connection!r}: no new token within"
                    f" {self._timing.total_seconds:g} s"
                )
            token = refresh.result().access_token
            # else the exchange that we joined had begun before the refusal; a server that gives the same
            # token once more is not asked again and again
            if refused in (None, instead_of) or token != refused:
                return token

    def _start_refresh(self, refused: str | None) -> _UnderWay:
        refresh = self._start(refused)
        refresh.add_done_callback(self._on_refreshed)
        return _UnderWay(refresh, refused)

    def _on_refreshed(self, refresh: asyncio.Task[HeldToken]) -> None:
        self._refresh = None
        error = None if refresh.cancelled() else refresh.exception()
        if refresh.cancelled() or error is not None:
            self._failures += 1
            self._not_before = clock.monotonic() + full_jitter(
                self._failures, rand=self._rand(), cap_seconds=60.0
            )
            if isinstance(error, AuthRefused):
                self._dead = error
        else:
            self._held, self._failures = refresh.result(), 0
