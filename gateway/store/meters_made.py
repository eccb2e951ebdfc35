"""Meters that the system is asked to make: which are wanted, and what came of each. Until one is made nothing
is due of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.model.connection import IssueCode
from gateway.model.meter import MeterMapping
from gateway.store import issues
from gateway.store.issues import NewIssue
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedMeter:
    """A meter to be asked for, and what it is fed by."""

    meter: str
    device: str
    metric: str
    unit: str | None
    attempts: int


async def want(
    connection: Connection, connection_id: str, mappings: Iterable[MeterMapping], *, all_of_them: bool
) -> None:
    """In the transaction that stored these mappings. `all_of_them`: what was wanted before and is not here is
    not any more.
    """
    meters = [mapping.meter for mapping in mappings if mapping.create]
    if meters or all_of_them:
        await connection.execute(sql("meter_made_want"), connection_id, meters, all_of_them)


async def again(connection: Connection, connection_id: str) -> None:
    """Those that were refused are asked for at once: settings or credentials of the
    connection have changed.
    """
    await connection.execute(
        "update meter_made set due_at = now() where connection_id = $1 and state <> 'made' and state ="
        " 'refused'",
        connection_id,
    )


async def due(database: Database, connection_id: str, limit: int) -> Sequence[WantedMeter]:
    """Those to be asked for now."""
    rows = await database.fetch(sql("meter_made_due"), connection_id, limit)
    return [
        WantedMeter(
            meter=row["meter"],
            device=row["device_id"],
            metric=row["metric"],
            unit=row["unit"],
            attempts=row["attempts"],
        )
        for row in rows
    ]


async def made(connection: Connection, connection_id: str, meter: str, *, title: str) -> None:
    """The system has it: its readings may go."""
    await connection.execute(sql("meter_made_store"), connection_id, meter, "made", title, None, None)


async def put_off(connection: Connection, connection_id: str, meter: str, *, again_seconds: float) -> bool:
    """It is asked for no sooner; False where it is not wanted any more."""
    found = await connection.fetchval(sql("meter_made_put_off"), connection_id, meter, again_seconds)
    return found is not None


async def refused(
    connection: Connection, connection_id: str, meter: str, *, error: str, again_seconds: float
) -> None:
    """The system does not make it: its readings wait, and it is asked for again."""
    await connection.execute(
        sql("meter_made_store"), connection_id, meter, "refused", None, error, again_seconds
    )


async def show(database: Database, connection_id: str, *, title: str, page: str) -> None:
    """Brings status and issue in line with what is refused. `title`: of the system."""
    async with database.transaction() as connection:
        # the connection's row first, as every change of a connection takes it
        await connection.execute(
            "update connection set version = version + 1 where connection_id = $1", connection_id
        )
        rows = await connection.fetch(sql("meter_made_refused"), connection_id)
        if not rows:
            await connection.execute(
                "update issue set solved_at = now() where connection_id = $1 and code = $2 and solved_at is"
                " null",
                connection_id,
                IssueCode.METERS_REFUSED,
            )
            return
        some = "\n".join(f"- `{row['meter']}`: {row['error']}" for row in rows)
        issue = NewIssue(
            code=IssueCode.METERS_REFUSED,
            severity="warning",
            title=f"{title} does not make {rows[0]['refused']} meters of {connection_id}",
            instructions=(
                "Their readings wait. Make them at the system, or correct the settings or the"
                f" rules:\n\n{some}\n\nEach is asked for again once a day, and at once when settings,"
                " credentials or meters of the connection change."
            ),
            action_url=page,
        )
        await issues.add(connection, connection_id, issue)
