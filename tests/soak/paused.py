"""What a system is asked while its connection is paused: nothing, once what was on its way has ended. Pure;
imports nothing of the product. Times are seconds of one clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Span = tuple[float, float]
"""From, until."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """From the answer to whoever asked for it until somebody asked to resume."""

    connection: str
    begin: float
    end: float


def judge_paused(
    pauses: Sequence[Pause],
    asked: Mapping[str, Sequence[tuple[float, str]]],
    stood: Sequence[Span],
    *,
    grace: float,
) -> list[str]:
    """What is wrong, each a text. `asked`: the requests at the system of each connection, when and what;
    `grace`: what is on its way may take so long. `stood`: when replicas were frozen; one that wakes up may
    ask once more, so that nothing is said of a pause that such a span touches.
    """
    wrong: list[str] = []
    for pause in pauses:
        if any(begin <= pause.end and end >= pause.begin for begin, end in stood):
            continue
        late = [
            f"{what} after {at - pause.begin:.1f} s"
            for at, what in asked.get(pause.connection, ())
            if pause.begin + grace < at < pause.end
        ]
        if late:
            wrong.append(f"{pause.connection}: asked {len(late)} times: {', '.join(late[:4])}")
    return wrong
