"""One refresh of a connection's token: the row, the lease on it, the exchange, the storing.

Replicas take turns by the lease. No transaction is open during the exchange, which is handed in: nothing here
knows HTTP. What an exchange gave is stored before it is used, because the one before it is used up.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from gateway import bulkhead, clock, metrics
from gateway.credentials.vault import Binding, Vault
from gateway.model import bounds
from gateway.model.backoff import full_jitter
from gateway.model.credential import (
    Credential,
    TokenExchange,
    TokenGrant,
    refresh_after,
    unrefreshable,
    usable_for,
)
from gateway.model.errors import (
    AuthRefused,
    BadConfiguration,
    ConnectorError,
    OutcomeUnknown,
    SealBroken,
    StoreError,
    StoreRejected,
    Unavailable,
)
from gateway.store import tokens
from gateway.store.pool import Database
from gateway.store.tokens import Lifetimes, RefreshClaim, StoredToken

log = structlog.get_logger(__name__)

FIELD = "token"
_POLL_SECONDS, _POLL_CAP_SECONDS = 0.05, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """`attempt_seconds` is longer than the slowest answer: one that is given up may have used up the refresh
    token.

    `total_seconds` has room for two attempts; nobody waits longer. A lease that ran out is taken from its
    holder after half its time again: when the database comes back, a holder that lives is there first.
    """

    attempt_seconds: float = 75.0
    total_seconds: float = 150.0
    lease_seconds: float = 15.0


TIMING = Timing()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldToken:
    """A token in memory. Times are monotonic; None: until it is refused."""

    access_token: str = field(repr=False)
    refresh_monotonic: float | None
    usable_until: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSubject:
    """Whose token it is."""

    connection: str
    customer: str
    system: str
    generation: int
    credential: Credential

    @property
    def binding(self) -> Binding:
        """Where its sealed record belongs."""
        return Binding(
            customer=self.customer, connection=self.connection, field=FIELD, generation=self.generation
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenContext:
    """What every refresh of this process works with. `owner` is this process's alone."""

    database: Database
    vault: Vault
    exchange: TokenExchange
    owner: str
    timing: Timing
    rand: Callable[[], float]


class Refresh:
    """`run` once."""

    def __init__(self, context: TokenContext, subject: TokenSubject, refused: str | None) -> None:
        """`refused` is a token that the system does not take, whatever its row says."""
        self._context = context
        self._database = context.database
        self._subject = subject
        self._refused = refused
        self._key = (subject.connection, subject.generation)
        self._deadline = self._total()
        self._secrets = list(subject.credential.values.values())

    async def run(self) -> HeldToken:
        """A token that is not due: another replica's, or a new one. Raises ConnectorError subclasses only."""
        name, system = self._subject.connection, self._subject.system
        with bulkhead.contained("token", name, secrets=self._secrets, passes=(ConnectorError,)) as made:
            try:
                return await self._run()
            except StoreRejected:
                self._count("raced")
                raise self._replaced() from None
            except StoreError as error:
                self._count("store_unavailable")
                raise Unavailable(
                    f"connection {name!r}: its token cannot be read or stored: {error}"
                ) from error
            except SealBroken as error:
                self._count("misconfigured")
                raise BadConfiguration(str(error)) from None
            except ConnectorError as error:
                kind = type(error).__name__
                log.warning(
                    "connection.token_not_refreshed",
                    connection=name,
                    system=system,
                    kind=kind,
                    detail=str(error),
                )
                raise
        assert made.fault is not None
        self._count("unavailable")
        raise Unavailable(made.fault.text, reference=made.fault.reference)

    async def _run(self) -> HeldToken:
        poll = _POLL_SECONDS
        seen: tuple[int | None, float] = (None, 0.0)
        while True:
            stored = await tokens.read(self._database, *self._key)
            if stored is not None and (held := self._settled(stored)) is not None:
                return held
            lapsed, now = None if stored is None else stored.lapsed, clock.monotonic()
            if lapsed != seen[0]:
                seen = (lapsed, now)
            is_dead = lapsed is not None and now - seen[1] >= self._context.timing.lease_seconds / 2
            lease = await tokens.claim(
                self._database,
                *self._key,
                self._context.owner,
                self._context.timing.lease_seconds,
                lapsed=lapsed if is_dead else None,
            )
            if lease is not None:
                return await self._with(lease)
            if now > self._deadline:
                self._count("unavailable")
                raise Unavailable(
                    f"connection {self._subject.connection!r}: another replica refreshes its token and has"
                    " not ended"
                )
            await asyncio.sleep(poll * (0.5 + self._context.rand()))
            poll = min(_POLL_CAP_SECONDS, 1.5 * poll)

    def _settled(self, stored: StoredToken) -> HeldToken | None:
        """What the row says is enough: a token that is neither due nor refused, or that there will be none.
        None: a new one is needed.
        """
        if stored.refused is not None:
            raise AuthRefused(stored.refused, final=True)
        if stored.sealed is None or (
            stored.refresh_in_seconds is not None and stored.refresh_in_seconds <= 0.0
        ):
            return None
        opened = self._open(stored.sealed)
        if opened["access_token"] == self._refused:
            return None
        return _held(opened["access_token"], stored.refresh_in_seconds, stored.expires_in_seconds)

    async def _with(self, lease: RefreshClaim) -> HeldToken:
        """The lease is ours: looks once more, asks, stores. The lease is renewed meanwhile, and free at the
        end.
        """
        self._deadline = self._total()
        renewing = asyncio.create_task(self._renew(lease), name=f"lease of token {self._subject.connection}")
        try:
            held = self._settled(lease.token)
            return await self._refresh(lease) if held is None else held
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await self._release(lease)

    async def _refresh(self, lease: RefreshClaim) -> HeldToken:
        opened = {} if lease.token.sealed is None else self._open(lease.token.sealed)
        refresh_token = opened.get("refresh_token") or self._subject.credential.values.get("refresh_token")
        if refresh_token is None and self._subject.credential.type != "oauth2_client_credentials":
            return await self._refuse(lease, opened, unrefreshable(bool(opened)))
        if refresh_token is not None:
            self._secrets.append(refresh_token)
        try:
            grant, began_monotonic = await self._ask(refresh_token)
        except AuthRefused as error:
            return await self._refuse(lease, opened, str(error))
        except ConnectorError as error:
            self._count("misconfigured" if isinstance(error, BadConfiguration) else "unavailable")
            raise
        return await self._store(lease, grant, began_monotonic, refresh_token)

    async def _ask(self, refresh_token: str | None) -> tuple[TokenGrant, float]:
        """One exchange; where the answer to it is lost, one more with the same token: servers answer a
        repetition that comes at once.
        """
        for last in (False, True):
            began_monotonic = clock.monotonic()
            seconds = min(self._context.timing.attempt_seconds, self._deadline - began_monotonic)
            try:
                return (
                    await self._context.exchange.refresh(
                        self._subject.credential, refresh_token, timeout_seconds=seconds
                    ),
                    began_monotonic,
                )
            except OutcomeUnknown:
                if last or clock.monotonic() >= self._deadline:
                    raise
        raise AssertionError

    async def _store(
        self, lease: RefreshClaim, grant: TokenGrant, began_monotonic: float, refresh_token: str | None
    ) -> HeldToken:
        """Not used before it is stored. While the database is away it is tried again and again: this token is
        the only one there is.
        """
        sealed = self._context.vault.seal(
            contents(self._subject.credential, grant, refresh_token), self._subject.binding
        )
        rand, attempt = self._context.rand(), 0
        while True:
            lifetimes = remaining(grant, clock.monotonic() - began_monotonic, rand=rand)
            try:
                serial = await tokens.store(self._database, *self._key, lease.fence, sealed, lifetimes)
            except StoreError as error:
                if attempt == 0:
                    log.warning(
                        "connection.token_store_awaited",
                        connection=self._subject.connection,
                        detail=str(error),
                    )
                attempt += 1
                await asyncio.sleep(
                    full_jitter(
                        attempt,
                        rand=self._context.rand(),
                        base_seconds=0.2,
                        cap_seconds=self._context.timing.lease_seconds / 8,
                    )
                )
                continue
            if serial is None:
                return await self._raced()
            self._count("refreshed")
            return _held(grant.access_token, lifetimes.refresh_in_seconds, lifetimes.expires_in_seconds)

    async def _refuse(self, lease: RefreshClaim, opened: Mapping[str, str], reason: str) -> HeldToken:
        """invalid_grant. Before a person is asked: has the row or the credential moved, was our client
        changed?
        """
        stored = await tokens.read(self._database, *self._key)
        if stored is None or stored.serial != lease.token.serial:
            return await self._raced()
        if opened and opened.get("client") != client_of(self._subject.credential):
            self._count("misconfigured")
            raise BadConfiguration(
                f"connection {self._subject.connection!r}: the OAuth client's id or secret was changed since"
                f" the token was given: {reason}",
                oauth_client=True,
            )
        reason = f"connection {self._subject.connection!r}: {reason}"
        if not await tokens.refuse(self._database, *self._key, lease.fence, reason):
            return await self._raced()
        self._count("refused")
        raise AuthRefused(reason, final=True)

    async def _raced(self) -> HeldToken:
        """Somebody else has moved the row: their token, where it is one."""
        self._count("raced")
        stored = await tokens.read(self._database, *self._key)
        held = None if stored is None else self._settled(stored)
        if held is None:
            raise self._replaced()
        return held

    def _total(self) -> float:
        return clock.monotonic() + self._context.timing.total_seconds

    async def _renew(self, lease: RefreshClaim) -> None:
        while True:
            await asyncio.sleep(self._context.timing.lease_seconds / 4)
            try:
                await tokens.renew(
                    self._database, *self._key, lease.fence, self._context.timing.lease_seconds
                )
            except StoreError:
                continue  # whoever stores the token says that the database is away

    async def _release(self, lease: RefreshClaim) -> None:
        try:
            await tokens.release(self._database, *self._key, lease.fence)
        except StoreError:
            return  # it runs out by itself

    def _open(self, sealed: bytes) -> dict[str, str]:
        return self._context.vault.open(sealed, self._subject.binding)

    def _replaced(self) -> Unavailable:
        return Unavailable(
            f"connection {self._subject.connection!r}: its credential or token was replaced meanwhile",
            retry_after=1.0,
        )

    def _count(self, outcome: str) -> None:
        metrics.TOKEN_REFRESHES.labels(self._subject.system, outcome).inc()


def contents(credential: Credential, grant: TokenGrant, refresh_token: str | None) -> dict[str, str]:
    """What is sealed of a grant. An answer without a refresh token leaves the one before in force."""
    kept = grant.refresh_token or refresh_token
    return {"access_token": grant.access_token, "client": client_of(credential)} | (
        {} if kept is None else {"refresh_token": kept}
    )


def client_of(credential: Credential) -> str:
    """Tells whether the OAuth client has changed since a grant; kept sealed with it."""
    client = "\0".join(credential.values.get(name, "") for name in ("client_id", "client_secret"))
    return hashlib.sha256(client.encode()).hexdigest()


def remaining(grant: TokenGrant, age_seconds: float, *, rand: float) -> Lifetimes:
    """Lifetimes count from before the request was sent."""
    lifetime = bounds.lifetime(grant.expires_in_seconds)
    refresh_lifetime = bounds.lifetime(grant.refresh_expires_in_seconds)
    return Lifetimes(
        expires_in_seconds=None if lifetime is None else lifetime - age_seconds,
        refresh_in_seconds=None if lifetime is None else refresh_after(lifetime, rand=rand) - age_seconds,
        refresh_token_expires_in_seconds=None if refresh_lifetime is None else refresh_lifetime - age_seconds,
    )


def _held(access_token: str, refresh_in_seconds: float | None, expires_in_seconds: float | None) -> HeldToken:
    now = clock.monotonic()
    return HeldToken(
        access_token=access_token,
        refresh_monotonic=None if refresh_in_seconds is None else now + refresh_in_seconds,
        usable_until=None if expires_in_seconds is None else now + usable_for(expires_in_seconds),
    )
