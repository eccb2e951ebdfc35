"""The conformance suite itself, on a Mosquitto that has what is needed and on ones that lack it: a check that
cannot say no would say nothing. All brokers: `make interop`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from benchmarks.servers import Mosquitto, patient
from tests.interop.adapters import MosquittoHere
from tests.interop.run import checked
from tests.interop.suite import CHECKS
from tests.interop.through import Trial, killed_in_the_middle

SLOW = {"window", "killed", "killed_later", "node_killed", "expiry"}
NAMED = {check.name: check for check in CHECKS}


def mosquitto(extra: str = "", *, persistent: bool = True) -> MosquittoHere:
    class Made(MosquittoHere):
        def write(self) -> None:
            self.ports = [Mosquitto(self.folder, persistent=persistent, extra=extra).port]

    return Made()


@asynccontextmanager
async def running(broker: MosquittoHere) -> AsyncIterator[MosquittoHere]:
    try:
        await broker.start()
        yield broker
    finally:
        await broker.remove()


async def test_mosquitto_passes_what_is_quick() -> None:
    async with running(mosquitto()) as broker:
        found = {name: await checked(broker, one) for name, one in NAMED.items() if name not in SLOW}
    assert {name: one["outcome"] for name, one in found.items()} == dict.fromkeys(found, "yes"), found


@pytest.mark.parametrize(
    ("lacks", "persistent", "check"),
    [
        ("max_queued_messages 10", True, "persistent_session"),
        ("", False, "stopped"),
        ("message_size_limit 1000", True, "large"),
        ("retain_available false", True, "retained"),
    ],
)
async def test_what_a_broker_lacks_is_a_result(lacks: str, persistent: bool, check: str) -> None:
    async with running(mosquitto(lacks, persistent=persistent)) as broker:
        found = await checked(broker, NAMED[check])
    assert found["outcome"] == "no", found


async def test_a_check_that_fails_by_itself_is_told_as_an_error() -> None:
    async def fails(_: object) -> str:
        raise ZeroDivisionError("here")

    async with running(mosquitto()) as broker:
        found = await checked(broker, type(CHECKS[0])(name="x", title="x", required=True, run=fails))
    assert found["outcome"] == "error" and "ZeroDivisionError" in str(found["said"])


@pytest.mark.soak  # when Mosquitto has saved its queue is a matter of seconds, and of luck
@pytest.mark.parametrize(
    ("make", "is_lost"),
    [(mosquitto, False), (lambda: mosquitto(persistent=False), True)],
    ids=["with persistence", "without"],
)
async def test_through_the_gateway_what_a_broker_forgets_is_counted(
    make: Callable[[], MosquittoHere], is_lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed with a queue: what it has not saved is lost, and the trial says how much."""
    monkeypatch.setattr("tests.interop.through.QUIET_SECONDS", 3.0)
    monkeypatch.setattr("tests.interop.through.SESSION_SECONDS", 0.0)
    if not is_lost:
        trial = Trial(count=600)
        stop = MosquittoHere.stop

        async def orderly(self: MosquittoHere, *_: object) -> None:  # SIGTERM: it saves
            await stop(self)

        monkeypatch.setattr(MosquittoHere, "stop", orderly)
    else:
        trial = Trial(count=600, is_away=True)
    async with patient(100):
        found = await killed_in_the_middle(make, trial)
    assert found["acknowledged"] == 600, found
    assert (found["lost"] != 0) == is_lost and found["lost"] == 600 - int(str(found["stored"])), found
