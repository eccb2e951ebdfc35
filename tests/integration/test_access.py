"""Tokens, login links and sessions in a real database: what is stored, what ends what, and that a link is
good once.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from gateway.model.access import Role
from gateway.model.errors import RequestRefused
from gateway.store import access
from gateway.store.pool import Database

TABLES = ("api_token", "login_link", "dashboard_session", "reauthorization_link", "authorization_flow")


async def dump(database: Database) -> str:
    """Every row of what this part stores, as text."""
    async with database.connection() as connection:
        return "\n".join(
            [
                str(
                    [
                        tuple(row.values())
                        for row in await connection.fetch(f"select * from {table} order by 1")
                    ]
                )
                for table in TABLES
            ]
        )


async def execute(database: Database, query: str, *arguments: object) -> None:
    async with database.connection() as connection:
        await connection.execute(query, *arguments)


async def test_a_token_is_known_by_its_hash_only(database: Database) -> None:
    made = await access.create(database, name="ci", role=Role.OPERATOR, customer="acme")
    assert made.token.startswith("fg_") and len(made.token) >= 46 and made.token not in repr(made)
    found = await access.identify(database, made.token)
    assert found is not None
    assert (found[0].name, found[0].role, found[0].customer, found[1]) == (
        "ci",
        Role.OPERATOR,
        "acme",
        made.token_id,
    )
    assert await access.identify(database, made.token + "x") is None
    assert await access.identify(database, "") is None
    stored = await dump(database)
    assert made.token not in stored and made.token.removeprefix("fg_") not in stored


async def test_a_token_that_expired_or_was_revoked_is_no_good_and_nor_are_its_sessions(
    database: Database,
) -> None:
    made = await access.create(database, name="a", role=Role.ADMIN)
    brief = await access.create(
        database, name="b", role=Role.ADMIN, expires_at=datetime.now(UTC) + timedelta(hours=1)
    )
    sessions = []
    for token in (made, brief):
        found = await access.identify(database, token.token)
        assert found is not None
        sessions.append(await access.open_session(database, *found))
    assert [
        (await access.identify_session(database, session.secret)) is not None for session in sessions
    ] == [True, True]
    assert await access.revoke(database, "a") and not await access.revoke(database, "a")
    await execute(database, "update api_token set expires_at = now() - interval '1 s' where name = 'b'")
    for token, session in zip((made, brief), sessions, strict=True):
        assert await access.identify(database, token.token) is None
        assert await access.identify_session(database, session.secret) is None


async def test_names_are_unique_among_tokens_in_use(database: Database) -> None:
    await access.create(database, name="ci", role=Role.VIEWER)
    with pytest.raises(RequestRefused, match="in use"):
        await access.create(database, name="ci", role=Role.VIEWER)
    await access.revoke(database, "ci")
    again = await access.create(database, name="ci", role=Role.VIEWER)
    assert await access.revoke(database, again.token_id)
    assert [(token.name, token.revoked_at is None) for token in await access.tokens(database)] == [
        ("ci", False),
        ("ci", False),
    ]


async def test_the_name_of_a_token_that_has_expired_is_free(database: Database) -> None:
    """As for a program that makes the next one when the last has ended."""
    end = datetime.now(UTC) + timedelta(hours=1)
    for customer in (None, "acme"):
        await access.create(database, name="ci", role=Role.VIEWER, customer=customer, expires_at=end)
        await execute(database, "update api_token set expires_at = now() - interval '1 s'")
        made = await access.create(database, name="ci", role=Role.VIEWER, customer=customer)
        assert await access.identify(database, made.token) is not None
        with pytest.raises(RequestRefused, match="in use"):
            await access.create(database, name="ci", role=Role.VIEWER, customer=customer)
        await execute(database, "update api_token set revoked_at = now()")


async def test_a_name_that_another_customer_has_is_free(database: Database) -> None:
    """Else who makes a token learns by it which names others have."""
    made = [
        await access.create(database, name="ci", role=Role.VIEWER, customer=customer)
        for customer in ("acme", "globex", None)
    ]
    for customer in ("acme", None):
        with pytest.raises(RequestRefused, match="in use"):
            await access.create(database, name="ci", role=Role.VIEWER, customer=customer)
    assert not await access.revoke(database, "ci"), "of several, none is meant"
    assert await access.identify(database, made[0].token) is not None
    assert await access.revoke(database, made[0].token_id) and await access.revoke(database, made[1].token_id)
    assert await access.revoke(database, "ci"), "the only one that is left"
    assert await access.identify(database, made[2].token) is None


async def test_the_last_use_is_noted_coarsely(database: Database) -> None:
    made = await access.create(database, name="ci", role=Role.VIEWER)
    assert (await access.tokens(database))[0].last_used_at is None
    await access.identify(database, made.token)
    first = (await access.tokens(database))[0].last_used_at
    await access.identify(database, made.token)
    assert first is not None and (await access.tokens(database))[0].last_used_at == first
    await execute(database, "update api_token set last_used_at = now() - interval '6 min'")
    await access.identify(database, made.token)
    later = (await access.tokens(database))[0].last_used_at
    assert later is not None and later > first


async def test_of_many_at_once_one_redeems_a_login_link(database: Database) -> None:
    secret = await access.create_login(database, name="demo", role=Role.ADMIN)
    sessions = await asyncio.gather(*(access.redeem_login(database, secret) for _ in range(8)))
    [session] = [one for one in sessions if one is not None]
    assert await access.redeem_login(database, secret) is None
    assert await access.identify_session(database, session.secret) is not None
    stored = await dump(database)
    assert secret not in stored and session.secret not in stored and session.csrf not in stored


async def test_links_and_sessions_end_by_themselves(database: Database) -> None:
    old = await access.create_login(database, name="old", role=Role.ADMIN, lifetime=timedelta(seconds=-1))
    assert await access.redeem_login(database, old) is None
    session = await access.redeem_login(
        database, await access.create_login(database, name="new", role=Role.ADMIN)
    )
    assert session is not None
    await execute(database, "update dashboard_session set expires_at = now()")
    assert await access.identify_session(database, session.secret) is None
    assert (
        await access.redeem_login(database, await access.create_login(database, name="next", role=Role.ADMIN))
        is not None
    )
    async with database.connection() as connection:
        assert await connection.fetchval("select count(*) from dashboard_session") == 1, (
            "what has expired was swept"
        )


async def test_logging_out_ends_the_session(database: Database) -> None:
    session = await access.redeem_login(
        database, await access.create_login(database, name="demo", role=Role.ADMIN)
    )
    assert session is not None
    await access.close_session(database, session.secret)
    assert await access.identify_session(database, session.secret) is None


async def test_who_is_logged_in_is_shown_and_can_be_logged_out(database: Database) -> None:
    opened = {}
    for name, customer in (("local", None), ("jane", "acme"), ("john", "globex")):
        secret = await access.create_login(database, name=name, role=Role.VIEWER, customer=customer)
        session = await access.redeem_login(database, secret)
        assert session is not None
        opened[name] = session
    made = await access.create(database, name="ci", role=Role.ADMIN)
    found = await access.identify(database, made.token)
    assert found is not None
    await access.open_session(database, *found)

    async def names(customer: str | None = None) -> list[str]:
        return [one.name for one in await access.open_sessions(database, customer, limit=10)]

    assert await names() == ["ci", "john", "jane", "local"] and await names("acme") == ["jane"]
    await access.revoke(database, "ci")  # what it opened is no session any more
    await execute(database, "update dashboard_session set expires_at = now() where name = 'local'")
    assert await names() == ["john", "jane"]
    (john, jane) = await access.open_sessions(database, None, limit=10)
    assert john.session_id == opened["john"].session_id and john.opened_at is not None
    assert await access.end_session(database, john.session_id, "acme") is None
    assert await access.end_session(database, "", None) is None
    assert await access.end_session(database, jane.session_id, "acme") == "jane"
    assert await access.identify_session(database, opened["jane"].secret) is None
    assert await access.identify_session(database, opened["john"].secret) is not None
    assert await names() == ["john"]


async def test_of_many_sessions_of_one_the_first_ends_and_nobody_elses(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "MAX_SESSIONS", 3)
    secrets = []
    for name in ("a", "b"):
        made = await access.create(database, name=name, role=Role.VIEWER, customer="acme")
        found = await access.identify(database, made.token)
        assert found is not None
        secrets.append(
            [(await access.open_session(database, *found)).secret for _ in range(4 if name == "a" else 1)]
        )
    known = [
        [await access.identify_session(database, secret) is not None for secret in own] for own in secrets
    ]
    assert known == [[False, True, True, True], [True]]


async def test_a_customer_has_so_many_tokens_and_what_ended_is_not_kept_for_ever(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "MAX_TOKENS", 2)
    monkeypatch.setattr(access, "MAX_ENDED_TOKENS", 3)
    for number in range(6):
        made = await access.create(database, name=f"a{number}", role=Role.VIEWER, customer="acme")
        await access.revoke(database, made.token_id)
    for number in range(2):
        await access.create(database, name=f"b{number}", role=Role.VIEWER, customer="acme")
    with pytest.raises(RequestRefused, match="2 tokens in use"):
        await access.create(database, name="c", role=Role.VIEWER, customer="acme")
    await access.create(database, name="c", role=Role.VIEWER, customer="globex")
    await access.create(database, name="d", role=Role.VIEWER)
    names = {token.name for token in await access.tokens(database)}
    assert names == {"a3", "a4", "a5", "b0", "b1", "c", "d"}
