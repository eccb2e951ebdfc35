"""A system is connected step by step: by whoever is logged in, or by a customer through a connect link. It
knows no HTTP, no forms and no particular system.

Between the steps what was entered is kept sealed, for two hours, under the secret of its address; a page
never gets a secret back. A link is for one customer and the systems that its maker chose, and makes one
connection. Looking at it changes nothing (mail scanners follow links).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import cast

import orjson
import structlog

from gateway import clock
from gateway.configuration import Faults
from gateway.connections.login_page import CODE_FLOW, FLOW_SECONDS, Departure, Login, LoginPage
from gateway.connections.service import Connections
from gateway.connections.verification import Verifier
from gateway.credentials.vault import Binding, Vault
from gateway.model.access import Caller, Origin
from gateway.model.address import Reach
from gateway.model.connector import Auth, Hosting
from gateway.model.credential import Credential
from gateway.model.draft import MAX_TRIES, Draft, from_document, to_document
from gateway.model.errors import BadConfiguration, ConnectorError, RequestRefused, SealBroken, Unavailable
from gateway.model.verification import Verification
from gateway.settings import ConnectionSettings
from gateway.store import connecting as store
from gateway.store.access import hashed, new_secret
from gateway.store.connecting import StoredConnectLink, StoredDraft
from gateway.store.pool import Connection, Database

log = structlog.get_logger(__name__)

DRAFT_SECONDS = 7200.0
LINK_LIFETIME = timedelta(days=7)
GONE = (
    "What was entered is gone: it is kept for two hours only, or the system was connected meanwhile. Begin"
    " again."
)
USED = "This link is good no more: it was used, revoked, or is too old. Ask whoever sent it for a new one."


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the maker of a link gives ahead: settings of its one system, and an OAuth client with which the
    customer logs in. The customer cannot change them.
    """

    hosting: Hosting = "cloud"
    title: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    client: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectInvitation:
    """A new link. Whoever has the address can connect a system with it, once."""

    id: str
    url: str = field(repr=False)
    expires_at: datetime


def owner_of(origin: Origin, name: str) -> str:
    """Whose a draft is, and whether what they give is trusted: kept with it, for a
    browser that comes back.
    """
    return f"{origin}:{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectReturn:
    """A browser is back from the system's page: how the login ended, and the path of the steps."""

    login: Login
    back: str = field(repr=False)


class Connecting:
    """Drafts and links on one database."""

    def __init__(
        self,
        database: Database,
        service: Connections,
        verifier: Verifier,
        *,
        public_url: str,
        vault: Vault,
        login: LoginPage,
        reach: Callable[[str, Origin], Reach],
    ) -> None:
        """`reach`: where what a customer has, given by somebody, may lead to."""
        self._database = database
        self._service = service
        self._verifier = verifier
        self._public_url = public_url.rstrip("/")
        self._vault = vault
        self._login = login
        self._reach = reach

    # Links

    async def invite(
        self,
        customer: str,
        systems: Sequence[str],
        given: Given,
        *,
        by: str,
        lifetime: timedelta = LINK_LIFETIME,
    ) -> ConnectInvitation:
        """A new link. The systems exist, and what is given ahead was checked."""
        secret = new_secret()
        ahead = {
            "hosting": given.hosting,
            "title": given.title,
            "settings": dict(given.settings),
            "client": dict(given.client),
        }
        sealed = self._vault.seal(
            {"given": orjson.dumps(ahead).decode()}, draft_binding(customer, hashed(secret))
        )
        link, expires_at = await store.invite(
            self._database,
            secret,
            customer=customer,
            systems=systems,
            by=by,
            lifetime_seconds=lifetime.total_seconds(),
            sealed=sealed,
        )
        log.info("connect.link_made", link=link, customer=customer, systems=list(systems), by=by)
        return ConnectInvitation(
            id=link, url=f"{self._public_url}/connect/link/{secret}", expires_at=expires_at
        )

    async def links(self, customer: str | None) -> Sequence[StoredConnectLink]:
        """The newest first; None: of every customer."""
        return await store.links(self._database, customer, limit=store.MAX_LISTED_LINKS)

    async def revoke(self, link: str, customer: str | None, *, by: str) -> None:
        """The link is good no more. Raises RequestRefused where there is none that was."""
        if not await store.revoke(self._database, link, customer):
            raise RequestRefused(
                "request.not_found", "There is no such connect link that could still be used."
            )
        log.info("connect.link_revoked", link=link, by=by)

    async def look(self, secret: str) -> StoredConnectLink | None:
        """How it stands with a link; changes nothing. One whose key was taken out meanwhile has ended."""
        link = await store.look(self._database, secret)
        if link is not None and link.is_open:
            try:
                self.given(link, secret)
            except SealBroken:
                log.warning("connect.link_not_opened", link=link.id)
                return replace(link, is_fresh=False)
        return link

    def given(self, link: StoredConnectLink, secret: str) -> Given:
        """What its maker gave ahead."""
        opened = self._vault.open(link.sealed, draft_binding(link.customer, hashed(secret)))
        return Given(**orjson.loads(opened["given"]))

    # Drafts

    async def begin(
        self,
        draft: Draft,
        owner: str,
        *,
        link: tuple[StoredConnectLink, str] | None = None,
    ) -> str:
        """The secret of a new draft; through a link it is the link's own, and one draft takes the place of
        another.
        """
        secret = new_secret() if link is None else link[1]
        base = "/connect" if link is None else "/connect/link"
        number = secrets.token_hex(2)
        named = f"{draft.customer[:40]}-{draft.system[:16]}-{number}"
        begun = replace(draft, back=f"{base}/{secret}", id=draft.id or named)
        if link is not None:
            given = self.given(link[0], secret)
            begun = replace(
                begun,
                hosting=given.hosting,
                title=given.title,
                settings=given.settings,
                fixed=sorted(given.settings),
            )
            if given.client:
                begun = replace(begun.with_credentials(CODE_FLOW, given.client), client_is_fixed=True)
        await store.put(
            self._database,
            self._sealed(hashed(secret), owner, begun),
            link=None if link is None else link[0].id,
            lifetime_seconds=DRAFT_SECONDS,
        )
        return secret

    async def draft(self, secret: str, owner: str) -> Draft:
        """What this owner entered. Raises RequestRefused("request.not_found") when its time is over."""
        stored = await store.read(self._database, secret, owner)
        if stored is None:
            raise RequestRefused("request.not_found", GONE)
        return self._opened(stored)

    async def keep(self, secret: str, owner: str, draft: Draft) -> None:
        """In place of what was there. Raises RequestRefused("request.not_found") for a draft that is gone:
        its system was connected meanwhile, or its link revoked.
        """
        stored = self._sealed(hashed(secret), owner, draft)
        if not await store.keep(self._database, stored, lifetime_seconds=DRAFT_SECONDS):
            raise RequestRefused("request.not_found", GONE)

    async def check(self, draft: Draft, caller: Caller, *, credentials: bool) -> None:
        """Raises RequestRefused for what could not become a connection; nothing is sent. `credentials`: they
        are there already.
        """
        await self._service.check(to_settings(draft), caller, credentials=credentials)

    async def check_given(self, customer: str, systems: Sequence[str], given: Given, caller: Caller) -> None:
        """Whether a link that gives this ahead can be followed. Raises RequestRefused."""
        if not (given.settings or given.client):
            return
        if len(systems) != 1:
            raise RequestRefused("request.invalid", "What is given ahead is of one system: name one.")
        values = {"type": CODE_FLOW, **given.client} if given.client else {"type": "none"}
        wanted = ConnectionSettings.model_validate(
            {
                "id": "link",
                "customer": customer,
                "system": systems[0],
                "hosting": given.hosting,
                "settings": dict(given.settings),
                "credentials": values,
            }
        )
        try:
            await self._service.check(
                wanted, replace(caller, origin=Origin.BOUND), credentials=bool(given.client)
            )
        except RequestRefused as error:
            missing = isinstance(error.__cause__, Faults) and all(
                fault.message.startswith("is missing") for fault in error.__cause__.faults
            )
            if not missing:  # what is missing the customer fills in
                raise

    async def verify(self, secret: str, owner: str, draft: Draft, caller: Caller) -> Draft:
        """The draft with what the system said. Raises RequestRefused, and then nothing was sent."""
        if draft.tries >= MAX_TRIES:
            raise RequestRefused("request.conflict", "This was tried too often. Begin again.")
        wanted = to_settings(draft)
        found: Verification = await self._verifier.verify(
            wanted, caller, grant=draft.aged_grant(clock.now().timestamp())
        )
        tried = replace(draft, verified=found, tries=draft.tries + 1)
        await self.keep(secret, owner, tried)
        return tried

    async def depart(self, secret: str, owner: str, draft: Draft) -> Departure:
        """To the system's login page, from this browser. Raises RequestRefused."""
        try:
            begun = self._login.begin(draft.credentials)
        except BadConfiguration as error:
            raise RequestRefused("request.invalid", str(error)) from error
        stored = self._sealed(hashed(secret), owner, replace(draft, verifier=begun.verifier))
        if not await store.depart(
            self._database,
            stored,
            state=begun.state,
            browser=begun.departure.browser,
            lifetime_seconds=FLOW_SECONDS,
        ):
            raise RequestRefused("request.not_found", GONE)
        return begun.departure

    async def arrive(self, *, state: str, browser: str, code: str | None) -> ConnectReturn | None:
        """The browser came back: the code is exchanged, and its tokens are kept with what was entered. `code`
        None: the login was declined. None where the state is of no draft of this browser, or of one that is
        gone.
        """
        stored = await store.arrive(self._database, state=state, browser=browser)
        if stored is None:
            return None
        draft = self._opened(stored)
        if code is None:
            return ConnectReturn(login=Login.DECLINED, back=draft.back)
        origin = Origin.TRUSTED if stored.owner.startswith(f"{Origin.TRUSTED}:") else Origin.BOUND
        credential = Credential(
            generation=0,
            type=CODE_FLOW,
            values=draft.credentials,
            reach=self._reach(draft.customer, origin),
        )
        try:
            grant = await self._login.redeem(credential, code=code, verifier=draft.verifier)
        except Unavailable as error:
            log.warning("connect.login_unfinished", customer=draft.customer, detail=str(error))
            return ConnectReturn(login=Login.UNREACHABLE, back=draft.back)
        except ConnectorError as error:
            log.warning("connect.login_refused", customer=draft.customer, detail=str(error))
            return ConnectReturn(login=Login.REFUSED, back=draft.back)
        kept = replace(draft, grant=grant, granted_at=clock.now().timestamp(), verifier="", verified=None)
        sealed = self._sealed(stored.hash, stored.owner, kept)
        if not await store.keep(self._database, sealed, lifetime_seconds=DRAFT_SECONDS):
            return None
        return ConnectReturn(login=Login.HANDED_OVER, back=draft.back)

    async def finish(self, secret: str, owner: str, draft: Draft, caller: Caller, *, link: str | None) -> str:
        """The connection exists, its credits are held, the link is used and the draft forgotten: one
        transaction. Its id. Raises RequestRefused, and then nothing has changed.
        """
        if draft.verified is None or not draft.verified.is_good:
            raise RequestRefused(
                "request.conflict", "The credentials were not verified yet, or the system refused them."
            )
        wanted = to_settings(draft)
        declared = await self._service.check(wanted, caller)

        async def used(connection: Connection) -> None:
            if link is not None and not await store.use(connection, link, wanted.id):
                raise RequestRefused("request.conflict", USED)
            await store.remove(connection, self._sealed(hashed(secret), owner, draft))

        await self._service.create_declared(
            declared,
            caller,
            managed_by="api",
            grant=draft.aged_grant(clock.now().timestamp()),
            also=used,
        )
        return wanted.id

    def _sealed(self, hash_: bytes, owner: str, draft: Draft) -> StoredDraft:
        text = orjson.dumps(to_document(draft)).decode()
        sealed = self._vault.seal({"draft": text}, draft_binding(draft.customer, hash_))
        return StoredDraft(hash=hash_, owner=owner, customer=draft.customer, sealed=sealed)

    def _opened(self, stored: StoredDraft) -> Draft:
        try:
            opened = self._vault.open(stored.sealed, draft_binding(stored.customer, stored.hash))
        except SealBroken as error:  # its key was taken out meanwhile
            raise RequestRefused("request.not_found", GONE) from error
        return from_document(orjson.loads(opened["draft"]))


def to_settings(draft: Draft) -> ConnectionSettings:
    """The connection that would be made. Raises pydantic's ValidationError for what no step let through."""
    return ConnectionSettings.model_validate(
        {
            "id": draft.id,
            "title": draft.title or None,
            "customer": draft.customer,
            "system": draft.system,
            "hosting": draft.hosting,
            "settings": dict(draft.settings),
            "credentials": {"type": cast("Auth", draft.credential_type or "none"), **draft.credentials},
            "meters": [dict(meter) for meter in draft.meters],
            "sync": {"initial_days": draft.initial_days},
        }
    )


def draft_binding(customer: str, hash_: bytes) -> Binding:
    """Of a draft, and of what is given ahead with a link."""
    return Binding(customer=customer, connection=hash_.hex(), field="draft", generation=0)
