"""Runs the suite and Fieldgate itself against brokers: python -m tests.interop.run [NAME ...] --json FILE."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.interop import through
from tests.interop.adapters import ADAPTERS, Broker, Missing
from tests.interop.client import Client, Refused
from tests.interop.suite import CHECKS, Check, Not
from tests.interop.through import Trial

CHECK_SECONDS = 600.0


async def checked(broker: Broker, one: Check) -> dict[str, object]:
    """yes, no or error, with what was seen."""
    began, limit = time.monotonic(), asyncio.timeout(CHECK_SECONDS)
    try:
        async with limit:
            outcome, said = "yes", await one.run(broker)
    except (Not, Refused, TimeoutError, ConnectionError) as error:
        outcome, said = "no", str(error) or type(error).__name__
        if limit.expired():  # it is slow: that says nothing of what it can
            outcome, said = "error", f"not done within {CHECK_SECONDS:g} s"
    except (
        Exception
    ) as error:  # a fault of the suite, or an answer that nobody foresaw: told, and the others go on
        outcome, said = "error", f"{type(error).__name__}: {error}"
    return {"outcome": outcome, "said": said[:300], "seconds": round(time.monotonic() - began, 1)}


async def one_broker(name: str, messages: int) -> dict[str, object]:
    try:
        broker = ADAPTERS[name]()
    except Missing as error:
        return {"title": ADAPTERS[name].title, "missing": str(error)}  # type: ignore[attr-defined]
    found: dict[str, object] = {
        "title": broker.title,
        "version": broker.version(),
        "package": broker.package,
        "configuration": broker.configuration,
        "nodes": broker.nodes,
    }
    try:
        await broker.start()
        try:
            await (await Client(broker.port, "first").connect()).leave()
        except Refused as error:  # one sentence, and not a row of them
            return {**found, "refuses": f"no MQTT 5 ({error})"}
        checks: dict[str, object] = {}
        for one in CHECKS:
            if one.name == "node_killed" and broker.nodes == 1:
                continue
            result = await checked(broker, one)
            checks[one.name] = result
            print(f"  {name:18} {one.name:22} {result['outcome']:5} {result['said']}", flush=True)
            if not any(map(_alive, broker.ports)):
                await broker.stop(signal.SIGKILL)
                await broker.start()
        found["checks"] = checks
        await broker.stop(signal.SIGKILL)
    except Missing as error:
        return {"title": broker.title, "missing": str(error)}
    except (
        OSError,
        TimeoutError,
    ) as error:  # it did not start, or not again: the others are tried all the same
        return {**found, "missing": f"it did not run: {error}"}
    finally:
        with contextlib.suppress(OSError, TimeoutError):
            await broker.remove()
    if messages:
        tried: dict[str, object] = {}
        for word, trial in trials(messages, is_cluster=broker.nodes > 1).items():
            tried[word] = await through.killed_in_the_middle(ADAPTERS[name], trial)
            print(f"  {name:18} {word:22} {tried[word]}", flush=True)
        found["through"] = tried
    return found


def trials(messages: int, *, is_cluster: bool) -> dict[str, Trial]:
    """What the gateway itself is put through."""
    wanted = {
        "keeps_up": Trial(count=messages),
        "away": Trial(count=messages // 5, is_away=True),
    }
    if is_cluster:
        wanted["balanced"] = Trial(count=messages, is_balanced=True)
    return wanted


def _alive(port: int) -> bool:
    from benchmarks.servers import accepts

    return accepts(port)


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.machine()}, Python {platform.python_version()}"


def adapter(name: str) -> str:
    """A broker by its name. With `choices`, argparse refuses the list that stands where none is named."""
    if name not in ADAPTERS:
        raise argparse.ArgumentTypeError(f"{name}: expected one of {', '.join(ADAPTERS)}")
    return name


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(ADAPTERS), type=adapter, metavar="NAME")
    parser.add_argument("--json", type=Path, help="merged into this file, broker by broker")
    parser.add_argument(
        "--messages", type=int, default=100_000, help="through the gateway; 0: the suite alone"
    )
    return parser.parse_args(arguments)


async def main() -> None:
    given = parse()
    for name in given.names:
        print(f"{name} ...", flush=True)
        result = await one_broker(name, given.messages)
        if given.json is None:
            continue
        whole = json.loads(given.json.read_text()) if given.json.exists() else {"brokers": {}}
        whole["machine"] = machine()
        result["date"] = datetime.now(UTC).date().isoformat()
        whole["brokers"][name] = result
        given.json.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
