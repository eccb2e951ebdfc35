"""The pool: what a use leaves behind is nothing, and a share of it cannot take the rest."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import gateway.store
from gateway.store.pool import Database
from gateway.store.queries import names, sql

SESSION_STATE = r"pg_(try_)?advisory_lock|set_config|with hold|temp(orary)? (table|view)"
SESSION_STATEMENT = r"(set (?!local )|reset |listen |prepare |declare |load )"


def test_no_query_leaves_something_in_its_session() -> None:
    """Sessions go from one use to the next as they are."""
    for name in names():
        body = re.sub(r"--.*", "", sql(name)).lower()
        assert not re.search(SESSION_STATE, body), name
        assert not [text for text in body.split(";") if re.match(SESSION_STATEMENT, text.strip())], name


def test_nor_does_a_statement_in_the_code() -> None:
    for path in Path(gateway.store.__file__).parent.glob("*.py"):
        code = re.sub(r'""".*?"""', "", path.read_text().lower(), flags=re.DOTALL)
        # what every session has from its beginning, and the lock and the tables of sessions that no pool has
        for own in (
            "set client_connection_check_interval = '1s'",
            "select pg_advisory_lock($1)",
            "create temporary table {name}",
        ):
            code = code.replace(own, "", 1)
        assert not re.search(SESSION_STATE, code), path.name
        assert not re.search(rf'execute\(\s*f?"{SESSION_STATEMENT}', code), path.name


async def test_a_transaction_that_was_left_open_is_rolled_back(dsn: str) -> None:
    database = await Database.open(dsn, size=1)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # asyncpg tells of it
    try:
        async with database.connection() as connection:
            await connection.execute("begin; insert into customer (customer_id) values ('acme')")
        async with database.connection() as connection:
            assert await connection.fetchval("select count(*) from customer") == 0
            assert not connection.is_in_transaction()
    finally:
        asyncio.get_running_loop().set_exception_handler(None)
        await database.close()
