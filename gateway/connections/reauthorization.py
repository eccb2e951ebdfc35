"""Reconnect links: the customer's way to give a connection new credentials. It knows no HTTP, no forms and no particular system.

A link is bound to one connection. Looking at it changes nothing (mail scanners follow links); giving credentials does. It can be
tried again until a verification succeeds, a few times at most. What succeeded is read from the connection's audit.
"""

from __future__ import annotations

import base64
import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from gateway.model.access import Caller
from gateway.model.connection import State, Trigger
from gateway.model.errors import ConnectorError, RequestRefused, Unavailable
from gateway.settings import CredentialSettings
from gateway.store import reauthorization as links
from gateway.store.access import hashed, new_secret
from gateway.store.pool import Database
from gateway.store.reauthorization import StoredFlow, StoredLink

log = structlog.get_logger(__name__)

LIFETIME = timedelta(days=7)
MAX_ATTEMPTS = 5
FLOW_SECONDS = 900.0
CODE_FLOW = "oauth2_authorization_code"
ANOTHER_ACCOUNT = "another account"
"""What the reason of a refusal says when the new credentials reach somebody else's data."""

VOID = "This link is not valid, or not any more: it has expired, or was replaced by a newer one."
USED = "This link has been used."
EXHAUSTED = "This link has been tried too often."
FOREIGN = "This answer does not belong to a login that was begun in this browser, or it came too late."


class GivesCredentials(Protocol):
    """The lifecycle."""

    async def give_credentials(self, connection: str, /, credentials: CredentialSettings, caller: Caller) -> None:
        """Verified before use. Raises RequestRefused."""
        ...


class Sealer(Protocol):
    """Keeps values so that only we can read them, and only for the connection they were sealed for."""

    def seal(self, values: Mapping[str, str], *, connection: str) -> bytes:
        """Sealed."""
        ...

    def open(self, sealed: bytes, *, connection: str) -> dict[str, str]:
        """What was sealed."""
        ...


class Authorizer(Protocol):
    """The OAuth 2.0 authorization code flow with the system of a connection."""

    async def authorization_url(self, connection: str, *, state: str, challenge: str, redirect_uri: str) -> str:
        """Where the customer logs in; `challenge` is PKCE's, S256. Raises RequestRefused where it is not configured."""
        ...

    async def exchange(self, connection: str, *, code: str, verifier: str, redirect_uri: str) -> CredentialSettings:
        """The credentials that the code stands for. Raises ConnectorError."""
        ...


class Stage(enum.StrEnum):
    """What the customer's page shows."""

    WANTED = "wanted"
    CHECKING = "checking"
    REFUSED = "refused"
    ANOTHER_ACCOUNT = "another_account"
    DEFERRED = "deferred"
    DONE = "done"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """A new link. Whoever has the address can use it."""

    url: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link that exists, and how it stands with it."""

    stored: StoredLink
    stage: Stage

    @property
    def attempts_left(self) -> int:
        """How often credentials may still be given."""
        return max(0, MAX_ATTEMPTS - self.stored.attempts)


class Login(enum.StrEnum):
    """How a login on the system's own page ended."""

    HANDED_OVER = "handed_over"
    DECLINED = "declined"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """The browser is back: how the login ended, and the secret of the link to return to."""

    login: Login
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """To the system's login page. `browser` is for a cookie of this browser only."""

    url: str = field(repr=False)
    browser: str = field(repr=False)


def stage(link: StoredLink) -> Stage:
    """What the page shows of a link that is open. Pure."""
    if link.succeeded:
        return Stage.DONE
    match link.state:
        case State.DISCONNECTING | State.DISCONNECTED | State.PAUSED:
            return Stage.UNAVAILABLE
        case State.VERIFYING:
            return Stage.CHECKING
        case State.PENDING | State.REAUTHORIZATION_REQUIRED | State.BLOCKED if link.submitted_at is not None and link.since >= link.submitted_at:
            if link.last_trigger == Trigger.VERIFICATION_DEFERRED:
                return Stage.DEFERRED
            return Stage.ANOTHER_ACCOUNT if ANOTHER_ACCOUNT in (link.reason or "") else Stage.REFUSED
        case _:
            return Stage.WANTED


class Reauthorization:
    """Links and flows on one database. `sealer` and `authorizer` are needed for the authorization code flow only."""

    def __init__(self, database: Database, lifecycle: GivesCredentials, *, public_url: str, sealer: Sealer, authorizer: Authorizer | None) -> None:
        self._database = database
        self._lifecycle = lifecycle
        self._public_url = public_url.rstrip("/")
        self._sealer = sealer
        self._authorizer = authorizer

    @property
    def redirect_uri(self) -> str:
        """What is registered with the system as the place to return to."""
        return f"{self._public_url}/oauth/callback"

    async def invite(self, connection: str, *, lifetime: timedelta = LIFETIME) -> Invitation:
        """A new link; an earlier one of the connection is void. The connection must exist."""
        secret = new_secret()
        expires_at = await links.invite(self._database, connection, secret, lifetime_seconds=lifetime.total_seconds())
        return Invitation(url=f"{self._public_url}/reauthorize/{secret}", expires_at=expires_at)

    async def look(self, secret: str) -> Link | None:
        """How it stands with a link; None when it is void. Changes nothing."""
        return await self._look(hashed(secret))

    async def submit(self, secret: str, credentials: CredentialSettings, caller: Caller) -> None:
        """Hands the credentials over to be verified. Raises RequestRefused: request.not_found, request.conflict, connection.*."""
        await self._hand_over(hashed(secret), credentials, caller)

    async def depart(self, secret: str) -> Departure:
        """Begins the authorization code flow for this browser. Raises RequestRefused."""
        link = await self._usable(hashed(secret))
        if self._authorizer is None or link.stored.credential_type != CODE_FLOW:
            raise RequestRefused("request.conflict", "This system is not authorized on a login page of its own.")
        state, verifier, browser = new_secret(), new_secret(), new_secret()
        connection = link.stored.connection
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        url = await self._authorizer.authorization_url(connection, state=state, challenge=challenge, redirect_uri=self.redirect_uri)
        sealed = self._sealer.seal({"verifier": verifier, "link": secret}, connection=connection)
        if not await links.begin_flow(self._database, hashed(secret), state=state, browser=browser, sealed=sealed, lifetime_seconds=FLOW_SECONDS):
            raise RequestRefused("request.not_found", VOID)
        return Departure(url=url, browser=browser)

    async def arrive(self, *, state: str, browser: str, code: str | None, caller: Caller) -> Arrival:
        """The browser came back: the code is exchanged, and the credentials are handed over. `code` None: the login was declined.

        Raises RequestRefused("request.not_found") for a state that is not this browser's, StoreError.
        """
        flow = await links.finish_flow(self._database, state=state, browser=browser)
        if flow is None:
            raise RequestRefused("request.not_found", FOREIGN)
        kept = self._sealer.open(flow.sealed, connection=flow.connection)
        return Arrival(secret=kept["link"], login=Login.DECLINED if code is None else await self._redeem(flow, code, kept["verifier"], caller))

    async def _redeem(self, flow: StoredFlow, code: str, verifier: str, caller: Caller) -> Login:
        assert self._authorizer is not None, "a flow was begun with it"
        try:
            await self._usable(flow.link_hash)
            credentials = await self._authorizer.exchange(flow.connection, code=code, verifier=verifier, redirect_uri=self.redirect_uri)
            await self._hand_over(flow.link_hash, credentials, caller)
        except Unavailable as error:
            log.warning("connection.login_unfinished", connection=flow.connection, detail=str(error))
            return Login.UNREACHABLE
        except (ConnectorError, RequestRefused) as error:
            log.warning("connection.login_refused", connection=flow.connection, detail=str(error))
            return Login.REFUSED
        return Login.HANDED_OVER

    async def _hand_over(self, link_hash: bytes, credentials: CredentialSettings, caller: Caller) -> None:
        link = await self._usable(link_hash)
        if not await links.attempt(self._database, link_hash, limit=MAX_ATTEMPTS):
            raise RequestRefused("request.conflict", USED)
        await self._lifecycle.give_credentials(link.stored.connection, credentials, caller)

    async def _usable(self, link_hash: bytes) -> Link:
        link = await self._look(link_hash)
        if link is None:
            raise RequestRefused("request.not_found", VOID)
        if link.stage is Stage.DONE:
            raise RequestRefused("request.conflict", USED)
        if link.stage is Stage.CHECKING:
            raise RequestRefused("request.conflict", "Credentials are being checked right now; wait for the result.")
        if link.stage is Stage.UNAVAILABLE:
            raise RequestRefused("request.conflict", "This connection takes no credentials now.")
        if not link.attempts_left:
            raise RequestRefused("request.conflict", EXHAUSTED)
        return link

    async def _look(self, link_hash: bytes) -> Link | None:
        stored = await links.look(self._database, link_hash)
        if stored is None or not stored.is_open:
            return None
        return Link(stored=stored, stage=stage(stored))
