"""Reads the configuration in a process of its own, for a daemon that runs: a thousand connections are two
seconds of Python, in which the loop that acknowledges telemetry would do nothing else.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path

from connectors.registry import SYSTEMS
from gateway.configuration import DeclaredConnection, Loaded, load
from gateway.model.errors import ConfigError

Fallback = Mapping[str, Mapping[str, object]]

PROGRAM = "from gateway.reading import main; main()"
READ_SECONDS = 600.0
"""A file system that hangs does not keep later changes out for ever."""

SLICE = 50
"""Connections that are unpacked in one turn of the loop: four milliseconds."""


def read(path: Path | None, fallback: Fallback | None = None) -> Loaded:
    """The configuration, read here and now. Raises ConfigError."""
    return load(path, os.environ, systems=SYSTEMS, fallback=fallback)


async def read_again(path: Path | None, fallback: Fallback | None = None) -> Loaded:
    """As `read`; the loop turns meanwhile. Raises ConfigError."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-c",
        PROGRAM,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # what a terminal or a service manager sends to the daemon is not for it
    )
    try:
        async with asyncio.timeout(READ_SECONDS):
            given, _ = await process.communicate(pickle.dumps((path, fallback)))
    except TimeoutError:
        raise ConfigError(f"the configuration could not be read within {READ_SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode or not given:
        raise ConfigError(
            f"the process that reads the configuration ended with {process.returncode}; its words are in the"
            " log"
        )
    refusal, loaded, slices = pickle.loads(given)  # noqa: S301 - from our own process, over a pipe
    if refusal is not None:
        raise ConfigError(refusal)
    connections: list[DeclaredConnection] = []
    for packed in slices:
        connections += pickle.loads(packed)  # noqa: S301 - as above
        await asyncio.sleep(0)
    return Loaded(settings=loaded.settings, connections=tuple(connections), path=loaded.path)


def main() -> None:
    """The process: asked on its standard input, answers on its standard output."""
    try:
        _answer()
    except (BrokenPipeError, EOFError):
        os._exit(1)  # the daemon was killed: there is nobody to answer, and nothing to say in its log


def _answer() -> None:
    path, fallback = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own daemon, over a pipe
    try:
        loaded = read(path, fallback)
    except ConfigError as error:
        answer: object = (str(error), None, ())
    else:
        declared = loaded.connections
        slices = [pickle.dumps(declared[place : place + SLICE]) for place in range(0, len(declared), SLICE)]
        answer = (None, Loaded(settings=loaded.settings, connections=(), path=loaded.path), slices)
    sys.stdout.buffer.write(pickle.dumps(answer))
    sys.stdout.buffer.flush()
