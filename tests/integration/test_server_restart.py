"""The throw-away PostgreSQL of the tests comes back after a SIGKILL of its postmaster alone."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import asyncpg

from benchmarks.servers import Postgres, wait_until


async def test_it_is_started_again_while_backends_of_the_killed_one_still_end(
    make_postgres: Callable[..., Awaitable[Postgres]],
) -> None:
    """They hold the shared memory until they notice: the new postmaster says so, and ends."""
    server = await make_postgres()
    session = await asyncpg.connect(server.dsn())
    busy = await session.fetchval("select pg_backend_pid()")
    os.kill(busy, signal.SIGSTOP)  # it cannot notice
    try:
        await server.kill()
        starting = asyncio.create_task(server.start())
        log = server._root / "log"
        await wait_until(
            lambda: "pre-existing shared memory block" in log.read_text(), seconds=30, what="it is refused"
        )
        assert not starting.done()
    finally:
        os.kill(busy, signal.SIGCONT)
    await starting
    session.terminate()
