"""Inputs that follow the code: atheris (libFuzzer) changes bytes by which lines they reach, through every decoder of
payloads, every encoding, sources of many rules, and Sparkplug. `python -m tests.soak.fuzz --runs 1000000 FOLDER`.

Whatever is raised that is no DecodeError, takes ten seconds or two gigabytes ends it, and leaves the input in FOLDER.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gateway.payloads", "gateway.ingest", "gateway.model", "cbor2"]):
    from gateway.payloads.sparkplug.node import Node
    from tests.fixtures.sparkplug import EdgeNode
    from tests.property.test_payloads import Known, encoded, fair, known_messages
    from tests.property.test_sparkplug_fuzz import AT, KINDS, process

SEED = 1
SPARKPLUG = 0xFFFF
MAX_LENGTH = 4096
MAX_SECONDS = 10
MAX_MEGABYTES = 2048


class Target:
    """One input: two bytes say which source (or Sparkplug), one how; the rest is the payload, or the messages
    of a node: a byte of kind and two of length before each.
    """

    def __init__(self, known: Sequence[Known]) -> None:
        self._known = known

    def one(self, data: bytes) -> None:
        """Raises whatever is a fault."""
        if len(data) < 3:
            return
        which, how, payload = int.from_bytes(data[:2]), data[2], data[3:]
        if which >= SPARKPLUG - 0x3FFF:
            _node(payload)
            return
        decoder, topic, _, rules = self._known[which % len(self._known)]
        sent = payload if how & 1 else encoded(payload, rules)
        fair(decoder, topic, sent, is_retained=bool(how & 2))

    def seeds(self) -> list[bytes]:
        """Good inputs of each."""
        made = [
            number.to_bytes(2) + b"\0" + plain[:MAX_LENGTH]
            for number, (_, _, plain, _) in enumerate(self._known)
        ]
        edge = EdgeNode(random.Random(SEED), at=AT - 100_000)
        lives = [list(edge.life(8)) for _ in range(20)]
        for life in lives:
            sent = (
                bytes([KINDS.index(one.kind)]) + len(one.payload).to_bytes(2) + one.payload for one in life
            )
            made.append(SPARKPLUG.to_bytes(2) + b"\0" + b"".join(sent))
        return made


def _node(data: bytes) -> None:
    node, place = Node(), 0
    while place + 3 <= len(data):
        kind, length = KINDS[data[place] % len(KINDS)], int.from_bytes(data[place + 1 : place + 3])
        process(node, kind, data[place + 3 : place + 3 + length])
        place += 3 + length


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.fuzz", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    target = Target(known_messages(random.Random(SEED)))
    corpus = arguments.folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = {
        "runs": arguments.runs,
        "seed": arguments.seed,
        "max_len": MAX_LENGTH,
        "timeout": MAX_SECONDS,
        "rss_limit_mb": MAX_MEGABYTES,
        "artifact_prefix": f"{arguments.folder}/",
        "print_final_stats": 1,
    }
    atheris.Setup(
        [sys.argv[0], *(f"-{name}={value}" for name, value in options.items()), str(corpus)], target.one
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
