"""API tokens, login links and dashboard sessions. It stores hashes only, and knows
neither HTTP nor cookies.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from gateway.model.access import Principal, Role
from gateway.model.errors import RequestRefused
from gateway.model.identity import LOGIN_SECONDS as LOGIN_ATTEMPT_SECONDS
from gateway.model.identity import LoginRefused, ProvenLogin, ProvenLogout
from gateway.store.pool import Database
from gateway.store.queries import filtered, sql

_MARK = "fg_"
LOGIN_SECONDS = 600.0
SESSION_SECONDS = 12 * 3600.0
_NO_PROVIDER = (None, None, None)
MAX_SESSIONS = 50
"""Of one person or program; the one that was opened first ends."""

MAX_TOKENS = 100
"""In use, of one customer."""

MAX_ENDED_TOKENS = 200
"""Of one customer; those that were made first are forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A token as it is shown once."""

    token_id: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What is kept of a token. `last_used_at` is to five minutes."""

    token_id: str
    name: str
    role: Role
    customer: str | None
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowserSession:
    """A browser that is logged in: who it is, and the secret of its cookie."""

    principal: Principal
    secret: str = field(repr=False)

    @property
    def csrf(self) -> str:
        """What its forms carry: derived from the secret, so another site can neither know nor plant it."""
        return hmac.new(self.secret.encode(), b"csrf", hashlib.sha256).hexdigest()

    @property
    def session_id(self) -> str:
        """As a list of sessions names it: a part of the hash, from which nobody finds the secret."""
        return hashed(self.secret)[:6].hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSession:
    """Somebody who is logged in. `opened_at` None: before it was kept."""

    session_id: str
    name: str
    role: Role
    customer: str | None
    opened_at: datetime | None
    expires_at: datetime


def hashed(secret: str) -> bytes:
    """What is stored of a secret. With 256 random bits no salt and no slow hash is needed."""
    return hashlib.sha256(secret.encode()).digest()


def new_secret() -> str:
    """256 random bits, safe in addresses and cookies."""
    return secrets.token_urlsafe(32)


async def create(
    database: Database,
    *,
    name: str,
    role: Role,
    customer: str | None = None,
    expires_at: datetime | None = None,
) -> NewToken:
    """A token that nobody can read again. Raises RequestRefused("request.conflict") while another of that
    name is in use for the same customer, and for a customer that has too many.
    """
    if customer is not None and await database.fetchval(sql("access_token_count"), customer) >= MAX_TOKENS:
        raise RequestRefused(
            "request.conflict",
            f"{customer!r} has {MAX_TOKENS} tokens in use: revoke those that it does not need.",
        )
    made = NewToken(token_id=secrets.token_hex(6), token=_MARK + new_secret())
    how = (made.token_id, hashed(made.token), name, role, customer, expires_at, MAX_ENDED_TOKENS)
    async with database.transaction() as connection:
        await connection.execute(sql("access_token_lapse"), name, customer)
        stored = await connection.fetchval(sql("access_token_create"), *how)
    if stored is None:
        raise RequestRefused(
            "request.conflict", f"A token named {name!r} is in use; revoke it, or choose another name."
        )
    return made


async def tokens(database: Database) -> Sequence[Token]:
    """Every token that was ever made, the newest first."""
    rows = await database.fetch(sql("access_token_list"))
    return [
        Token(
            token_id=row["token_id"],
            name=row["name"],
            role=Role(row["role"]),
            customer=row["customer_id"],
            created_at=row["created_at"],
            last_used_at=row["last_used_at"],
            expires_at=row["expires_at"],
            revoked_at=row["revoked_at"],
        )
        for row in rows
    ]


async def revoke(database: Database, token: str) -> bool:
    """Ends a token, by its id or by a name that it alone has, and the sessions that came by it; False when
    there is none.
    """
    return await database.fetchval(sql("access_token_revoke"), token) is not None


async def identify(database: Database, token: str) -> tuple[Principal, str] | None:
    """Whose token it is, and its id; None for one that is unknown, expired or revoked. Tells nothing by the
    time that it takes.
    """
    wanted = hashed(token)
    row = await database.fetchrow(sql("access_token_identify"), wanted)
    if row is None or not hmac.compare_digest(row["hash"], wanted):
        return None
    return _principal(row["name"], row["role"], row["customer_id"]), row["token_id"]


async def create_login(
    database: Database,
    *,
    name: str,
    role: Role,
    customer: str | None = None,
    lifetime: timedelta = timedelta(seconds=LOGIN_SECONDS),
) -> str:
    """The secret of a login link: `{public_url}/login/{secret}`. Good once."""
    secret = new_secret()
    await database.execute(
        sql("access_login_create"), hashed(secret), name, role, customer, lifetime.total_seconds()
    )
    return secret


async def redeem_login(database: Database, secret: str) -> BrowserSession | None:
    """One transaction: the link is gone and a session is open; None for a link that is no good."""
    async with database.transaction() as connection:
        row = await connection.fetchrow(sql("access_login_redeem"), hashed(secret))
        if row is None:
            return None
        session = BrowserSession(
            principal=_principal(row["name"], row["role"], row["customer_id"]), secret=new_secret()
        )
        await connection.execute(
            sql("access_session_open"),
            hashed(session.secret),
            None,
            row["name"],
            row["role"],
            row["customer_id"],
            SESSION_SECONDS,
            *_NO_PROVIDER,
            MAX_SESSIONS - 1,
        )
    return session


async def finish_login(database: Database, login: ProvenLogin) -> BrowserSession | None:
    """One transaction: the login by an identity provider is finished and a session is open; None for a login
    that was finished before. Raises LoginRefused where the provider has logged out whom it vouched for.
    """
    principal = login.principal
    async with database.transaction() as connection:
        await connection.execute(sql("access_login_lock"), login.issuer)
        proven = (login.issuer, login.subject, login.sid, login.issued_at)
        if await connection.fetchval(sql("access_login_ended"), *proven):
            raise LoginRefused("logged_out", "You were logged out there meanwhile: begin again.")
        if await connection.fetchval(sql("access_login_finish"), hashed(login.state), login.void_at) is None:
            return None
        session = BrowserSession(principal=principal, secret=new_secret())
        await connection.execute(
            sql("access_session_open"),
            hashed(session.secret),
            None,
            principal.name,
            principal.role,
            principal.customer,
            login.lasts.total_seconds(),
            login.issuer,
            login.subject,
            login.sid,
            MAX_SESSIONS - 1,
        )
    return session


async def end_sessions(database: Database, logout: ProvenLogout) -> Sequence[str]:
    """One transaction: the sessions that the provider has ended are over, so are logins that are on their
    way, and its word is used up. The names of who was logged in; none where it came before, since they may be
    logged in again.
    """
    word = hashed(f"logout {logout.issuer} {logout.token_id}")
    named = (logout.issuer, logout.subject, logout.sid)
    async with database.transaction() as connection:
        await connection.execute(sql("access_login_lock"), logout.issuer)
        if await connection.fetchval(sql("access_login_finish"), word, logout.void_at) is None:
            return []
        await connection.execute(
            sql("access_logout_remember"), *named, logout.issued_at, LOGIN_ATTEMPT_SECONDS
        )
        rows = await connection.fetch(sql("access_session_end_proven"), *named)
    return [row["name"] for row in rows]


async def open_session(database: Database, principal: Principal, token_id: str) -> BrowserSession:
    """A session that ends with the API token that it came by."""
    session = BrowserSession(principal=principal, secret=new_secret())
    await database.execute(
        sql("access_session_open"),
        hashed(session.secret),
        token_id,
        principal.name,
        principal.role,
        principal.customer,
        SESSION_SECONDS,
        *_NO_PROVIDER,
        MAX_SESSIONS - 1,
    )
    return session


async def identify_session(database: Database, secret: str) -> BrowserSession | None:
    """The session of this cookie; None once it, or the token that it came by, has ended."""
    row = await database.fetchrow(sql("access_session_identify"), hashed(secret))
    return (
        None
        if row is None
        else BrowserSession(principal=_principal(row["name"], row["role"], row["customer_id"]), secret=secret)
    )


async def close_session(database: Database, secret: str) -> None:
    """Logs out. Idempotent."""
    await database.execute(sql("access_session_close"), hashed(secret))


async def open_sessions(database: Database, customer: str | None, *, limit: int) -> Sequence[OpenSession]:
    """Who is logged in, of this customer or (None) at all; the latest first."""
    return [
        OpenSession(
            session_id=row["session_id"],
            name=row["name"],
            role=Role(row["role"]),
            customer=row["customer_id"],
            opened_at=row["opened_at"],
            expires_at=row["expires_at"],
        )
        for row in await database.fetch(*filtered("access_session_list", customer, limit))
    ]


async def end_session(database: Database, session_id: str, customer: str | None) -> str | None:
    """Logs somebody out: their name; None where there is no such session of this customer (None: any)."""
    name: str | None = await database.fetchval(*filtered("access_session_end", session_id, customer))
    return name


def _principal(name: str, role: str, customer: str | None) -> Principal:
    return Principal(name=name, role=Role(role), customer=customer)
