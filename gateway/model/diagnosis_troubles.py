"""What a look at what stands in the way of connections means, beside their states. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from gateway.model.diagnosis import Finding, Looked, looked, problem, span, warning
from gateway.model.status import Trouble

TROUBLE_SECONDS = 3600.0
"""What goes on for longer does not pass by itself. A connection that is not built stands still meanwhile."""


def judge_troubles(found: Iterable[tuple[str, Trouble]], now: datetime) -> Looked:
    """By connection. One that cannot be built is in no bad state, since nothing is called."""
    return looked(_of_a_trouble(connection, trouble, now) for connection, trouble in found)


def _of_a_trouble(connection: str, trouble: Trouble, now: datetime) -> Finding:
    where, for_long = f"connection {connection}", span((now - trouble.since).total_seconds())
    if trouble.part == "build":
        return problem(
            f"cannot be built for {for_long}, so nothing is sent or read: {trouble.detail}",
            where=where,
            advice="correct its settings, or give its credentials again",
        )
    return warning(
        f"{trouble.part}: for {for_long}: {trouble.detail}",
        where=where,
        advice=f"`fieldgate connections show {connection}`, and the gateway's log",
    )
