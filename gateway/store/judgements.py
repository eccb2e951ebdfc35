"""What alert rules have made of the log: a judgement for each rule and device, with the state from which
judging goes on, and when the silence of its device is looked at. The log is read for it by position, or by
device time where a late sample asks for what was before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson

from gateway.model import alerts
from gateway.model.alert_rule import AlertRule, compares_numbers
from gateway.model.alerts import RuleState
from gateway.model.sample import Metrics, to_microseconds
from gateway.store.alerts import time_of
from gateway.store.pool import Connection, Database
from gateway.store.queries import filtered, sql


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a rule has made of a device's log."""

    rule: str
    device: str
    state: RuleState
    is_due: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """A device whose silence is to be looked at. `seconds`: None where nobody listens."""

    rule: str
    device: str
    heard_at: datetime
    now: datetime
    seconds: float | None


async def samples(
    connection: Connection, customer: str, after: int, until: int
) -> dict[str, list[tuple[int, Metrics]]]:
    """What changed past position `after` up to `until`, by device, in the order of device time."""
    rows = await connection.fetch(sql("alert_samples"), customer, after, until)
    found: dict[str, list[tuple[int, Metrics]]] = {}
    for row in rows:
        if isinstance(row["metrics"], dict):
            found.setdefault(row["device_id"], []).append((to_microseconds(row["ts"]), row["metrics"]))
    return found


async def history(
    connection: Connection, customer: str, device: str, start: int, until: int, limit: int
) -> list[tuple[int, Metrics]]:
    """A device's samples from `start` to `until`, both inclusive, the first `limit` of them."""
    rows = await connection.fetch(
        sql("alert_history"), customer, device, time_of(start), time_of(until), limit
    )
    return [(to_microseconds(row["ts"]), row["metrics"]) for row in rows if isinstance(row["metrics"], dict)]


async def heard_before(
    connection: Connection, customer: str, device: str, at: int, rule: AlertRule
) -> int | None:
    """Device time of the newest sample before `at` that says something to the rule."""
    numbers = True if compares_numbers(rule) else None
    found = await connection.fetchval(
        *filtered("alert_heard_before", customer, device, time_of(at), rule.metric, numbers)
    )
    return None if found is None else to_microseconds(found)


async def read(
    connection: Connection, connection_id: str, devices: Sequence[str]
) -> dict[tuple[str, str], Judgement]:
    """By rule and device."""
    rows = await connection.fetch(sql("alert_judgements"), connection_id, list(devices))
    return {
        (row["rule_id"], row["device_id"]): Judgement(
            rule=row["rule_id"],
            device=row["device_id"],
            state=alerts.from_document(row["state"], row["judged_at"]),
            is_due=row["due_at"] is not None,
        )
        for row in rows
    }


async def put(
    connection: Connection, connection_id: str, judged: Sequence[tuple[str, str, RuleState, float | None]]
) -> None:
    """(rule, device, state, seconds until its silence is looked at) of what was heard."""
    if judged:
        await connection.execute(
            sql("alert_judge"),
            connection_id,
            [rule for rule, _, _, _ in judged],
            [device for _, device, _, _ in judged],
            [state.at for _, _, state, _ in judged],
            [orjson.dumps(alerts.to_document(state)).decode() for _, _, state, _ in judged],
            [due for _, _, _, due in judged],
        )


async def expect(
    connection: Connection, connection_id: str, waiting: Sequence[tuple[str, str, RuleState, float]]
) -> None:
    """(rule, device, state, seconds) of devices that nothing was judged of yet: they
    are silent from now on.
    """
    if waiting:
        await connection.execute(
            sql("alert_expect"),
            connection_id,
            [rule for rule, _, _, _ in waiting],
            [device for _, device, _, _ in waiting],
            alerts.to_document(waiting[0][2]),
            [due for _, _, _, due in waiting],
            waiting[0][2].at,
        )


async def advance(connection: Connection, connection_id: str, watermark: int) -> None:
    """In the transaction that judged everything up to it."""
    await connection.execute(sql("alert_advance"), connection_id, watermark)


async def silences(connection: Connection, connection_id: str, limit: int) -> list[Silence]:
    """Devices whose silence is to be looked at now."""
    rows = await connection.fetch(sql("alert_silent"), connection_id, limit)
    return [
        Silence(
            rule=row["rule_id"],
            device=row["device_id"],
            heard_at=row["heard_at"],
            now=row["now"],
            seconds=row["silent_seconds"],
        )
        for row in rows
    ]


async def looked_at(
    connection: Connection, connection_id: str, found: Sequence[tuple[str, str, float | None]]
) -> None:
    """(rule, device, seconds until it is looked at again; None: when it is heard)."""
    await connection.execute(
        sql("alert_silence"), connection_id, *([item[place] for item in found] for place in range(3))
    )


async def listen(database: Database) -> None:
    """This replica takes in what devices send, now."""
    async with database.connection() as connection:
        await connection.execute(sql("alert_listen"))
