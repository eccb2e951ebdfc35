"""Every query of the store is one that the migrated schema knows."""

from __future__ import annotations

import re

import asyncpg

from gateway.store.pool import Database
from gateway.store.queries import names, sql


async def test_every_query_prepares(database: Database) -> None:
    async with database.connection() as connection:
        for name in names():
            body = re.sub(r"--.*", "", sql(name))
            used = {int(number) for number in re.findall(r"\$(\d+)", body)}
            try:
                if used or ";" not in body:
                    statement = await connection.prepare(sql(name))
                    assert len(statement.get_parameters()) == max(used, default=0), name
                else:  # a script
                    attempt = connection.transaction()
                    await attempt.start()
                    await connection.execute(sql(name))
                    await attempt.rollback()
            except asyncpg.PostgresError as error:
                raise AssertionError(f"{name}: {error}") from error


def test_every_query_says_what_its_parameters_are() -> None:
    unsaid = []
    for name in names():
        body = re.sub(r"--.*", "", sql(name))
        comments = "\n".join(re.findall(r"--.*", sql(name)))
        unsaid += [
            f"${number} of {name}"
            for number in set(re.findall(r"\$(\d+)", body))
            if not re.search(rf"\${number}\b|one array a column|then one", comments)
        ]
    assert unsaid == []
