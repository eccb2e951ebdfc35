"""Reconnect links: the customer's way to give a connection new credentials. It knows no HTTP, no forms and no
particular system.

A link is bound to one connection. Looking at it changes nothing (mail scanners follow links); giving
credentials does. It can be tried again until a verification succeeds, a few times at most. What succeeded is
read from the connection's audit.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import structlog
from pydantic import SecretStr

from gateway.connections.building import credential_binding
from gateway.connections.login_page import CODE_FLOW, FLOW_SECONDS, Departure, Login, LoginPage
from gateway.connections.service import Connections
from gateway.credentials.vault import Binding, Vault
from gateway.model.access import Caller, Origin
from gateway.model.address import Reach
from gateway.model.connection import ENDED, State, Trigger
from gateway.model.credential import Credential, TokenGrant
from gateway.model.errors import BadConfiguration, ConnectorError, RequestRefused, Unavailable
from gateway.settings import CredentialSettings
from gateway.store import connections, credentials
from gateway.store import reauthorization as links
from gateway.store.access import hashed, new_secret
from gateway.store.pool import Database
from gateway.store.reauthorization import StoredFlow, StoredLink

log = structlog.get_logger(__name__)

LIFETIME = timedelta(days=7)
MAX_ATTEMPTS = 5
VOID = "This link is not valid, or not any more: it has expired, or was replaced by a newer one."
USED = "This link has been used."
EXHAUSTED = "This link has been tried too often."
FOREIGN = (
    "This login was not begun in this browser, was used already, or took longer than 15 minutes. "
    "Nothing has changed: open the page that you came from again, and log in once more."
)


class Stage(enum.StrEnum):
    """What the customer's page shows."""

    WANTED = "wanted"
    CHECKING = "checking"
    REFUSED = "refused"
    ANOTHER_ACCOUNT = "another_account"
    DEFERRED = "deferred"
    DONE = "done"
    UNAVAILABLE = "unavailable"
    SOLVED = "solved"
    """It works again although nothing was given through this link."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """A new link. Whoever has the address can use it."""

    url: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconnectLink:
    """A link that exists, and how it stands with it."""

    stored: StoredLink
    stage: Stage

    @property
    def attempts_left(self) -> int:
        """How often credentials may still be given."""
        return max(0, MAX_ATTEMPTS - self.stored.attempts) if self.stored.is_open else 0

    @property
    def may_retry(self) -> bool:
        """Whether the credential that was refused can be tried once more: the system may have been wrong."""
        return (
            self.stored.state is State.REAUTHORIZATION_REQUIRED
            and self.stored.credential_type not in ("none", CODE_FLOW)
            and self.attempts_left > 0
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconnectReturn:
    """The browser is back: how the login ended, and the secret of the link to return to."""

    login: Login
    secret: str = field(repr=False)


_VERDICTS = (
    Trigger.PROBE_REFUSED,
    Trigger.PROBE_DENIED,
    Trigger.ACCOUNT_DIFFERS,
    Trigger.VERIFICATION_DEFERRED,
)


def stage(link: StoredLink) -> Stage:
    """What the page shows of a link that is open. Pure."""
    if link.succeeded:
        return Stage.DONE
    if link.state in (State.PAUSED, *ENDED):
        return Stage.UNAVAILABLE
    if link.state is State.VERIFYING:
        return Stage.CHECKING
    works = link.state in (State.ACTIVE, State.DEGRADED) and link.since > link.created_at
    if works and (link.submitted_at is None or link.last_trigger not in _VERDICTS):
        return Stage.SOLVED
    if link.submitted_at is None or link.since < link.submitted_at:
        return Stage.WANTED
    match link.last_trigger:
        case Trigger.VERIFICATION_DEFERRED:
            return Stage.DEFERRED
        case Trigger.ACCOUNT_DIFFERS:
            return Stage.ANOTHER_ACCOUNT
        case Trigger.PROBE_REFUSED | Trigger.PROBE_DENIED:
            return Stage.REFUSED
        case _:
            return Stage.WANTED


class Reauthorization:
    """Links and flows on one database."""

    def __init__(
        self,
        database: Database,
        service: Connections,
        *,
        public_url: str,
        vault: Vault,
        login: LoginPage,
        reach: Callable[[str, Origin], Reach],
    ) -> None:
        """`reach`: where what a customer has, given by somebody, may lead to."""
        self._database = database
        self._service = service
        self._public_url = public_url.rstrip("/")
        self._vault = vault
        self._login = login
        self._reach = reach

    async def invite(self, connection: str, *, lifetime: timedelta = LIFETIME) -> Invitation:
        """A new link; an earlier one of the connection is void. The connection must exist."""
        secret = new_secret()
        expires_at = await links.invite(
            self._database, connection, secret, lifetime_seconds=lifetime.total_seconds()
        )
        return Invitation(url=f"{self._public_url}/reauthorize/{secret}", expires_at=expires_at)

    async def look(self, secret: str) -> ReconnectLink | None:
        """How it stands with a link; None when it is void. Changes nothing."""
        return await self._look(hashed(secret))

    async def submit(self, secret: str, credentials: CredentialSettings, caller: Caller) -> None:
        """Hands the credentials over to be verified. Raises RequestRefused: request.not_found,
        request.conflict, connection.*.
        """
        await self._hand_over(hashed(secret), credentials, caller)

    async def retry(self, secret: str, caller: Caller) -> None:
        """The same credentials are tried once more, where the system was wrong. Counts as an attempt. Raises
        RequestRefused.
        """
        link = await self._usable(hashed(secret))
        if not link.may_retry:
            raise RequestRefused("request.conflict", "There are no credentials that could be tried again.")
        if not await links.attempt(self._database, hashed(secret), limit=MAX_ATTEMPTS):
            raise RequestRefused("request.conflict", USED)
        await self._service.retry_credentials(link.stored.connection, caller)

    async def depart(self, secret: str) -> Departure:
        """Begins the authorization code flow for this browser. Raises RequestRefused."""
        stored = (await self._usable(hashed(secret))).stored
        credential, _ = await self._credential(stored.connection)
        try:
            begun = self._login.begin(credential.values)
        except BadConfiguration as error:
            raise RequestRefused(
                "request.conflict", f"The login of this connection is not set up: {error}"
            ) from error
        sealed = self._vault.seal(
            {"verifier": begun.verifier, "link": secret}, _binding(stored.customer, stored.connection)
        )
        if not await links.begin_flow(
            self._database,
            hashed(secret),
            state=begun.state,
            browser=begun.departure.browser,
            sealed=sealed,
            lifetime_seconds=FLOW_SECONDS,
        ):
            raise RequestRefused("request.not_found", VOID)
        return begun.departure

    async def arrive(self, *, state: str, browser: str, code: str | None, caller: Caller) -> ReconnectReturn:
        """The browser came back: the code is exchanged, and the credentials are handed over. `code` None: the
        login was declined.

        Raises RequestRefused("request.not_found") for a state that is not this browser's, StoreError.
        """
        flow = await links.finish_flow(self._database, state=state, browser=browser)
        if flow is None:
            raise RequestRefused("request.not_found", FOREIGN)
        kept = self._vault.open(flow.sealed, _binding(flow.customer, flow.connection))
        return ReconnectReturn(
            secret=kept["link"],
            login=Login.DECLINED
            if code is None
            else await self._redeem(flow, code, kept["verifier"], caller),
        )

    async def _redeem(self, flow: StoredFlow, code: str, verifier: str, caller: Caller) -> Login:
        try:
            await self._usable(flow.link_hash)
            credential, origin = await self._credential(flow.connection)
            grant = await self._login.redeem(credential, code=code, verifier=verifier)
            given = CredentialSettings.model_validate(
                {"type": CODE_FLOW, **{name: SecretStr(value) for name, value in credential.values.items()}}
            )
            # The client's own addresses are whoever's gave them: the customer gave a login, and no address.
            await self._hand_over(flow.link_hash, given, replace(caller, origin=origin), grant=grant)
        except Unavailable as error:
            log.warning("connection.login_unfinished", connection=flow.connection, detail=str(error))
            return Login.UNREACHABLE
        except (ConnectorError, RequestRefused) as error:
            log.warning("connection.login_refused", connection=flow.connection, detail=str(error))
            return Login.REFUSED
        return Login.HANDED_OVER

    async def _credential(self, connection_id: str) -> tuple[Credential, Origin]:
        """The OAuth client that the connection was given, of the newest generation, and by whom. Raises
        RequestRefused.
        """
        held = (await connections.read(self._database, [connection_id]))[connection_id]
        generation = held.candidate or held.generation
        async with self._database.connection() as connection:
            stored = await credentials.read(connection, connection_id=connection_id, generation=generation)
        if stored is None or stored.type != CODE_FLOW:
            raise RequestRefused(
                "request.conflict", "This system is not authorized on a login page of its own."
            )
        values = self._vault.open(stored.sealed, credential_binding(held.customer, connection_id, generation))
        reach = self._reach(held.customer, stored.origin)
        return Credential(generation=generation, type=CODE_FLOW, values=values, reach=reach), stored.origin

    async def _hand_over(
        self, link_hash: bytes, given: CredentialSettings, caller: Caller, *, grant: TokenGrant | None = None
    ) -> None:
        link = await self._usable(link_hash)
        # first, since an attempt is spent only by what is sent
        await self._service.check_credentials(link.stored.connection, given, caller)
        if not await links.attempt(self._database, link_hash, limit=MAX_ATTEMPTS):
            raise RequestRefused("request.conflict", USED)
        await self._service.give_credentials(link.stored.connection, given, caller, grant=grant)

    async def _usable(self, link_hash: bytes) -> ReconnectLink:
        link = await self._look(link_hash)
        if link is None or not link.stored.is_open:
            raise RequestRefused("request.not_found", VOID)
        if link.stage is Stage.DONE:
            raise RequestRefused("request.conflict", USED)
        if link.stage is Stage.CHECKING:
            raise RequestRefused(
                "request.conflict", "Credentials are being checked right now; wait for the result."
            )
        if link.stage is Stage.UNAVAILABLE:
            raise RequestRefused("request.conflict", "This connection takes no credentials now.")
        if not link.attempts_left:
            raise RequestRefused("request.conflict", EXHAUSTED)
        return link

    async def _look(self, link_hash: bytes) -> ReconnectLink | None:
        stored = await links.look(self._database, link_hash)
        if stored is None:
            return None
        if stored.is_open:
            return ReconnectLink(stored=stored, stage=stage(stored))
        if stored.state not in (State.ACTIVE, State.DEGRADED):
            return None
        # Whoever comes late is told that nothing is left to do.
        return ReconnectLink(stored=stored, stage=Stage.DONE if stored.succeeded else Stage.SOLVED)


def _binding(customer: str, connection: str) -> Binding:
    return Binding(customer=customer, connection=connection, field="authorization", generation=0)
