"""A technical user is never locked by us: at most two failed logons per generation of its password, whoever
calls.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.servers import patient, wait_until
from gateway.credentials.logons import Logons, PasswordGate
from gateway.model.credential import LogonGate
from gateway.model.errors import AuthRefused, Unavailable
from gateway.store import logons as logon_store
from gateway.store.pool import Database
from tests.contract.faults import FaultServer, answer
from tests.fixtures.credential_rig import CONNECTION, connected

LATER = (
    "update logon set failed_at = failed_at - interval '{0}', claimed_at = claimed_at - interval '{0}' where"
    " failed_at is not null"
)
WRONG = answer("401 Unauthorized", headers='WWW-Authenticate: Basic realm="SAP"\r\n')


@pytest.fixture
async def gate(database: Database) -> PasswordGate:
    await connected(database, type="basic", values={"username": "u", "password": "p"})
    gate = Logons(database).gate(CONNECTION, 1)
    assert isinstance(gate, PasswordGate)
    return gate


async def refused(gate: LogonGate) -> None:
    async with gate.attempt() as logon:
        logon.refused()


async def accepted(gate: LogonGate) -> None:
    async with gate.attempt() as logon:
        logon.accepted()


async def execute(database: Database, statement: str) -> None:
    async with database.connection() as connection:
        await connection.execute(statement)


@asynccontextmanager
async def replicas(
    dsn: str, url: str, *, callers: int, rounds: int
) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    async with AsyncExitStack() as stack:
        processes = []
        for _ in range(3):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "tests.fixtures.logon_worker", dsn, url, str(callers), str(rounds)),
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            stack.push_async_callback(process.wait)
            processes.append(process)
        for process in processes:
            assert process.stdout is not None
            assert json.loads(await process.stdout.readline()) == "ready"
        yield processes


async def called(process: asyncio.subprocess.Process) -> Counter[str]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"go\n")
    return Counter(json.loads(await process.stdout.readline()))


async def test_fifty_callers_in_three_processes_fail_twice_in_a_day(database: Database, dsn: str) -> None:
    """Hours pass on the database's clock while they call, and a day before a process that was started anew: a
    lost place stays lost.
    """
    await connected(database, type="basic", values={"username": "u", "password": "wrong"})
    async with (
        FaultServer(on_get=WRONG, on_other=WRONG) as server,
        replicas(dsn, server.url, callers=50, rounds=24) as processes,
    ):
        calling = [asyncio.create_task(called(process)) for process in processes]
        while not all(call.done() for call in calling):
            await execute(database, LATER.format("1 h"))
            await asyncio.sleep(0.02)
        seen = sum(await asyncio.gather(*calling), Counter[str]())
        assert len(server.requests) == 2
        assert seen == {"refused": 2, "final": 3 * 50 * 24 - 2}
        await execute(database, LATER.format("24 h"))
        with pytest.raises(AuthRefused):
            await accepted(Logons(database).gate(CONNECTION, 1))


async def test_callers_in_three_processes_are_let_in_by_turns(database: Database, dsn: str) -> None:
    await connected(database, type="basic", values={"username": "u", "password": "wrong"})
    welcome = answer("200 OK", b"{}")
    async with (
        FaultServer(on_get=welcome, on_other=welcome) as server,
        replicas(dsn, server.url, callers=5, rounds=2) as processes,
    ):
        seen = sum(await asyncio.gather(*map(called, processes)), Counter[str]())
        assert seen == {"accepted": 30}
        assert len(server.requests) == 30


async def test_two_refusals_close_the_gate_without_a_call(gate: PasswordGate, database: Database) -> None:
    await refused(gate)
    await refused(gate)
    for _ in range(2):
        with pytest.raises(AuthRefused, match=CONNECTION) as caught:
            await accepted(gate)
        assert caught.value.final
    with pytest.raises(AuthRefused):
        await accepted(Logons(database).gate(CONNECTION, 1))


async def test_a_later_logon_that_succeeds_gives_the_place_back(gate: PasswordGate) -> None:
    for _ in range(5):
        await refused(gate)
        await accepted(gate)
    await refused(gate)
    await refused(gate)
    with pytest.raises(AuthRefused):
        await accepted(gate)


async def test_a_logon_that_began_before_the_refusal_gives_nothing_back(gate: PasswordGate) -> None:
    async with gate.attempt() as earlier:
        await refused(gate)
        earlier.accepted()
    await refused(gate)
    with pytest.raises(AuthRefused):
        await accepted(gate)


async def test_a_call_that_never_told_loses_nothing(gate: PasswordGate) -> None:
    for _ in range(5):
        with pytest.raises(Unavailable):
            async with gate.attempt():
                raise Unavailable("time-out")
    await accepted(gate)


async def test_another_generation_begins_anew(gate: PasswordGate, database: Database) -> None:
    await refused(gate)
    await refused(gate)
    await connected(database, type="basic", values={"username": "u", "password": "p2"}, generation=2)
    await accepted(Logons(database).gate(CONNECTION, 2))


async def test_a_process_that_died_in_a_call_frees_its_place_when_the_time_is_out(
    gate: PasswordGate, database: Database
) -> None:
    for _ in range(2):
        await wait_until(lambda: claimed(database), what="the dead hold both places")
    waiting = asyncio.create_task(accepted(gate))
    await wait_until(lambda: waits(database), what="a caller waits")
    assert not waiting.done()
    await execute(database, "update logon set claimed_until = now()")
    async with patient(5):
        await waiting


async def claimed(database: Database) -> bool:
    return isinstance(await logon_store.claim(database, CONNECTION, 1, 90.0), logon_store.CallPlace)


async def waits(database: Database) -> bool:
    async with database.connection() as connection:
        return bool(await connection.fetchval("select count(*) = 2 from logon where claimed_until > now()"))


async def test_a_caller_that_leaves_gives_its_place_back(gate: PasswordGate) -> None:
    async def stay() -> None:
        async with gate.attempt():
            await asyncio.Event().wait()

    for delay in (0.0, 0.0, 0.001, 0.002, 0.005, 0.01, 0.02):
        task = asyncio.create_task(stay())
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.wait({task})
    async with patient(5), gate.attempt(), gate.attempt():
        pass


async def test_a_refusal_is_recorded_also_for_a_caller_that_is_cancelled(
    gate: PasswordGate, database: Database
) -> None:
    leaving = asyncio.Event()

    async def leave() -> None:
        async with gate.attempt() as logon:
            logon.refused()
            leaving.set()
            await asyncio.Event().wait()

    for _ in range(2):
        leaving.clear()
        task = asyncio.create_task(leave())
        await leaving.wait()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})

    async def both() -> bool:
        async with database.connection() as connection:
            return bool(
                await connection.fetchval("select count(*) = 2 from logon where failed_at is not null")
            )

    await wait_until(both, what="both refusals are recorded")


async def test_what_cannot_be_counted_is_not_tried(gate: PasswordGate, database: Database) -> None:
    await execute(database, "alter table logon rename to logon_away")
    with pytest.raises(Unavailable):
        await accepted(gate)
