"""A synchronous standby beside a throw-away PostgreSQL: made by pg_basebackup, promoted, rewound."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import asyncpg

from benchmarks.servers import Postgres, wait_until
from gateway.embedded.postgres import binaries

NAME = "standby"


class Standby(Postgres):
    """Follows `primary`, which waits for it at each commit from when `follow` has returned."""

    def __init__(self, primary: Postgres, **settings: str) -> None:
        super().__init__(None, **settings)
        self._primary = primary

    async def follow(self) -> None:
        """Copies the primary, starts, and is waited for."""
        await _tool(
            "pg_basebackup", "-D", str(self.data), "-R", "-X", "stream", "-c", "fast", "--no-sync",
            "-d", _follower(self._primary),
        )  # fmt: skip
        await self.start()
        await require_standby(self._primary)

    async def promote(self) -> None:
        """Returns when it takes writes."""
        connection = await asyncpg.connect(self.dsn())
        try:
            assert await connection.fetchval("select pg_promote(true, 60)")
        finally:
            await connection.close()


async def require_standby(primary: Postgres) -> None:
    """From now on a commit of the primary waits for its standby."""
    connection = await asyncpg.connect(primary.dsn())
    try:
        await connection.execute(f"alter system set synchronous_standby_names = '{NAME}'")
        await connection.execute("select pg_reload_conf()")

        async def is_synchronous() -> bool:
            return bool(
                await connection.fetchval("select sync_state = 'sync' from pg_stat_replication limit 1")
            )

        await wait_until(is_synchronous, what="the standby is synchronous")
    finally:
        await connection.close()


async def release_standby(primary: Postgres) -> None:
    """From now on a commit of the primary waits for nobody; the standby follows as it can."""
    connection = await asyncpg.connect(primary.dsn())
    try:
        await connection.execute("alter system reset synchronous_standby_names")
        await connection.execute("select pg_reload_conf()")

        async def is_asynchronous() -> bool:
            return bool(
                await connection.fetchval("select sync_state = 'async' from pg_stat_replication limit 1")
            )

        await wait_until(is_asynchronous, what="nobody is waited for")
    finally:
        await connection.close()


async def rejoin(old: Postgres, primary: Postgres) -> None:
    """An old primary, which is stopped, forgets what nobody replicated and follows the new one."""
    await old.start()  # the crash recovery that pg_rewind wants
    await old.stop()
    await _tool("pg_rewind", "-D", str(old.data), "--source-server", primary.dsn(), "-R", "--no-sync")
    with (old.data / "postgresql.auto.conf").open("a") as settings:
        settings.write(f"primary_conninfo = '{_follower(primary)}'\nsynchronous_standby_names = ''\n")
    await old.start()


def _follower(primary: Postgres) -> str:
    return f"host=127.0.0.1 port={primary.port} user=postgres password=postgres application_name={NAME}"


async def _tool(name: str, *arguments: str) -> None:
    """One of the wheel's programs, as the user that the servers run as."""
    user = Postgres.user()
    program = Path(binaries(user)[1]).with_name(name)
    if name == "pg_basebackup" and user is not None:
        shutil.chown(Path(arguments[1]).parent, user)
    done = await asyncio.to_thread(
        subprocess.run,
        [str(program), *arguments],
        capture_output=True,
        text=True,
        cwd="/",
        user=user,
        extra_groups=[] if user else None,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-800:]}")
