"""The tables of states as Mermaid diagrams: the documentation has them word for word."""

from __future__ import annotations

from gateway.model.alert_life import ALERT_TABLE
from gateway.model.connection import TABLE, Prior, State


def connection_diagram() -> str:
    """The table as a Mermaid state diagram. Lines that differ only in where the
    connection came from are one.
    """
    lines = ["stateDiagram-v2", "    [*] --> pending"]
    for rule in TABLE:
        targets = _comes_back_to(rule.source) if rule.target is Prior.STATE else (rule.target,)
        lines += [f"    {rule.source} --> {target}: {rule.trigger}" for target in targets]
    lines.append("    disconnected --> [*]")
    return "\n".join(dict.fromkeys(lines)) + "\n"


def _comes_back_to(state: State) -> tuple[State, ...]:
    return tuple(dict.fromkeys(rule.source for rule in TABLE if rule.target is state))


def alert_diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> pending"]
    lines += [f"    {row.source} --> {row.target}: {row.trigger}" for row in ALERT_TABLE]
    return "\n".join([*lines, "    cleared --> [*]"]) + "\n"
