"""A customer that moves between gateways, as each of the two databases has it: its stage, its marks, what is
taken away of it and put in force. Must not know files, brokers or keys.

What leaves goes from the live tables into `departed_*` tables of the same shape, in one transaction, so that
nothing works on it and nothing is lost; what grows with telemetry stays where it is, below a log that nobody
writes to. What arrives is read into temporary tables first. Both are put in force by the same statements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.model.errors import RequestRefused
from gateway.model.moving import AWAY, HERE, MARK, Moves, MoveStage, expected_refusal
from gateway.store import credits as ledger
from gateway.store.moving_tables import LARGE, SMALL, OwnedBy, Table
from gateway.store.pool import Connection, Database, Record
from gateway.store.queries import sql

DEPARTED = "departed_"
STATEMENT_SECONDS = 6 * 3600.0
"""For what goes through all that a customer has."""

HOLD_SECONDS = 60.0

CANCELLED = "cancelled-"
"""How the move of one begins that is expected no more, as long as something of it is still to be removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Where a customer stands. `position`: where its log ended when the stage began; `cut`: when the mark
    came. `is_whole`: of one that left, whether it had been in force here.
    """

    customer: str
    stage: MoveStage
    move: str
    position: int
    cut: int | None
    is_whole: bool

    @property
    def cancelled(self) -> str | None:
        """The move whose expectation was cancelled, while what came meanwhile is still to be removed."""
        if self.stage is MoveStage.LEFT and self.move.startswith(CANCELLED):
            return self.move.removeprefix(CANCELLED)
        return None


async def moves(database: Database) -> Moves:
    """Who moved here, and who away."""
    found = await listed(database)
    return Moves(
        here=frozenset(one.customer for one in found if one.stage in HERE),
        away=frozenset(one.customer for one in found if one.stage in AWAY),
        expected=frozenset(one.customer for one in found if one.stage is MoveStage.EXPECTED),
    )


async def listed(database: Database) -> list[Move]:
    """Every customer that ever moved."""
    async with database.connection() as connection:
        return [_move(row) for row in await connection.fetch(sql("move_list"))]


async def read(connection: Connection, customer: str) -> Move | None:
    """None for one that never moved. Its row is locked until the transaction ends."""
    row = await connection.fetchrow(sql("move_read"), customer)
    return None if row is None else _move(row)


async def require(connection: Connection, customer: str, stage: MoveStage, move: str) -> Move:
    """Where it stands, which stays so until the transaction ends. Raises RequestRefused where another command
    changed it since it was looked at.
    """
    held = await read(connection, customer)
    if held is None or held.stage is not stage or held.move != move:
        now = "is not moving" if held is None else f"is {held.stage} by the move {held.move}"
        raise RequestRefused(
            "request.conflict",
            f"customer {customer!r} is no longer {stage} by the move {move}: that was done or cancelled"
            f" meanwhile, and it {now}; this command put nothing in force and took nothing away",
        )
    return held


async def refuse_expected(connection: Connection, customer: str) -> None:
    """Raises RequestRefused for a customer that is expected. None becomes so before the transaction ends."""
    held = await read(connection, customer)
    if held is not None and held.stage is MoveStage.EXPECTED:
        raise RequestRefused("request.conflict", expected_refusal(customer))


async def set_stage(
    connection: Connection,
    customer: str,
    stage: MoveStage,
    move: str,
    *,
    cut: int | None = None,
    is_whole: bool = True,
) -> None:
    """With where the log ends now."""
    await connection.execute(sql("move_set"), customer, stage, move, cut, is_whole)


async def begin_leaving(connection: Connection, customer: str, move: str, *, is_whole: bool) -> None:
    """It is about to be taken away. Where it stood is kept, for `stay`."""
    await connection.execute(sql("move_leave"), customer, move, is_whole)


async def stay(connection: Connection, customer: str) -> None:
    """Of one that is about to be taken away: it stands where it stood."""
    await connection.execute(sql("move_stay"), customer)


async def expect(connection: Connection, customer: str, move: str, at_least: int) -> None:
    """The customer's messages are taken from now on. What they write has a later position than anything that
    another gateway gave: its streams find it as what came last.
    """
    await connection.execute(sql("move_expect"), customer, at_least)
    await set_stage(connection, customer, MoveStage.EXPECTED, move)


async def note_marks(database: Database, marks: Sequence[tuple[str, str]]) -> None:
    """These marks (customer, topic) were seen: what came before them is committed, nothing behind them is."""
    async with database.connection() as connection:
        await connection.execute(
            sql("mark_note"), [customer for customer, _ in marks], [topic for _, topic in marks], MARK
        )


async def marks(database: Database, customer: str) -> dict[str, int]:
    """Where the log ended at each mark that was seen, by topic."""
    async with database.connection() as connection:
        rows = await connection.fetch(sql("mark_list"), customer)
    return {row["topic"]: row["position"] for row in rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """What of a customer is still worked on."""

    streams: int
    tokens: int
    logons: int
    webhooks: int
    events: int

    @property
    def is_over(self) -> bool:
        """Whether nothing is."""
        return not (self.streams or self.tokens or self.logons or self.webhooks or self.events)

    def __str__(self) -> str:
        parts = {
            "run of a stream": self.streams,
            "refresh of a token": self.tokens,
            "logon": self.logons,
            "call of a webhook": self.webhooks,
            "unpublished event": self.events,
        }
        return ", ".join(f"{count} {what}" for what, count in parts.items() if count) or "nothing"


async def hold(database: Database, customer: str, owner: str) -> Busy:
    """Takes every lease of the customer that is free, for a minute, so that nothing new begins; what others
    have they finish. A mover that dies releases all of it.
    """
    async with database.transaction() as connection:
        await connection.execute(sql("move_hold"), customer, owner, HOLD_SECONDS)
        # another statement, for it has to see what somebody leased while that one waited
        row = await connection.fetchrow(sql("move_busy"), customer, owner)
    assert row is not None
    return Busy(**dict(row))


async def release(connection: Connection, customer: str, owner: str | None) -> None:
    """Undoes `hold`: of this owner, or of whoever moved the customer."""
    await connection.execute(sql("move_release"), customer, owner)


def where(table: Table, prefix: str = "") -> str:
    """The condition of the customer's rows ($1). `prefix`: of the tables that say which connections and
    endpoints are the customer's.
    """
    connections = f"select connection_id from {prefix}connection where customer_id = $1"
    match table.key:
        case OwnedBy.CUSTOMER:
            return "customer_id = $1"
        case OwnedBy.CONNECTION:
            return f"connection_id in ({connections})"
        case OwnedBy.EITHER:
            return f"(customer_id = $1 or connection_id in ({connections}))"
        case OwnedBy.ENDPOINT:
            return f"endpoint_id in (select endpoint_id from {prefix}webhook_endpoint where customer_id = $1)"


async def columns(
    connection: Connection, table: str, *, with_identity: bool = True, with_generated: bool = False
) -> list[str]:
    """Those that can be copied; `with_identity`: also those that another database gives anew."""
    rows = await connection.fetch(sql("move_columns"), table, with_identity, with_generated)
    return [f'"{row["name"]}"' for row in rows]


async def lock_connections(connection: Connection, customer: str) -> list[str]:
    """The customer's connections; nobody changes them until the transaction ends."""
    return [row["connection_id"] for row in await connection.fetch(sql("move_connections"), customer)]


async def take_out_of_force(
    connection: Connection, customer: str, move: str, cut: int | None, *, is_whole: bool
) -> None:
    """Takes the customer out of force, in the caller's transaction; its credits return. Whoever still works
    on something of it finds its lease gone.
    """
    # its row first: a connection that is being made is waited for, and waits
    await read(connection, customer)
    names = await lock_connections(connection, customer)
    await connection.execute(sql("log_freeze"), customer)
    await release(connection, customer, None)
    await _make_all(connection)
    await drop_departed(connection, customer)
    for table in reversed(SMALL):
        rows = f"select * from {table.name} where {where(table)}"
        if not table.stays:
            rows = f"delete from {table.name} where {where(table)} returning *"
        if table.name == "connection":  # after what refers to it, and what returns the credits is read
            for name in names:
                await ledger.give_back(connection, connection_id=name)
        await connection.execute(
            f"with gone as ({rows}) insert into {DEPARTED}{table.name} select * from gone",
            customer,
            timeout=STATEMENT_SECONDS,
        )
    await set_stage(connection, customer, MoveStage.LEFT, move, cut=cut, is_whole=is_whole)


async def _make_room(connection: Connection, table: Table) -> None:
    """A table of the same shape as it is now. Raises RequestRefused while one of an earlier shape holds
    somebody.
    """
    name = f"{DEPARTED}{table.name}"
    if await columns(connection, name) != await columns(connection, table.name, with_generated=True):
        if await connection.fetchval("select to_regclass($1)", name) is not None:
            if await connection.fetchval(f"select exists (select from {name})"):
                raise RequestRefused(
                    "request.conflict",
                    "customers that left before an upgrade are still kept: `fieldgate customer forget` them"
                    " first, or bring them back",
                )
            await connection.execute(f"drop table {name}")
        await connection.execute(f"create table {name} as select * from {table.name} with no data")


async def has_departed(connection: Connection, customer: str) -> bool:
    """Whether what was in force of it is kept aside."""
    return bool(await connection.fetchval(sql("move_kept"), customer))


async def drop_departed(connection: Connection, customer: str) -> None:
    """What was kept aside of the customer is gone, in the caller's transaction."""
    for table in reversed(SMALL):
        name = f"{DEPARTED}{table.name}"
        if await connection.fetchval("select to_regclass($1)", name) is not None:
            await connection.execute(f"delete from {name} where {where(table, DEPARTED)}", customer)


async def arrive(connection: Connection, customer: str, move: str) -> None:
    """The customer is in force here, in the caller's transaction; what an earlier stay left is gone."""
    await drop_departed(connection, customer)
    await connection.execute(sql("mark_clear"), customer)
    await set_stage(connection, customer, MoveStage.ARRIVED, move)


async def forget(database: Database, customer: str) -> None:
    """Removes what is left of a customer that left. Begun again after an interruption it goes on."""
    for table in LARGE:
        for child in await _parts(database, table.name):
            async with database.transaction() as connection:
                await connection.execute(
                    f"delete from {child} where {where(table, DEPARTED)}", customer, timeout=STATEMENT_SECONDS
                )
    async with database.transaction() as connection:
        held = await read(connection, customer)
        if held is None or held.stage is not MoveStage.LEFT:
            return
        await drop_departed(connection, customer)
        for table in reversed(SMALL):
            if not table.stays:  # what a batch that was in hand stored after the customer had left
                await connection.execute(f"delete from {table.name} where {where(table)}", customer)
        await connection.execute(sql("quota_forget"), customer)
        await connection.execute(sql("mark_clear"), customer)
        await set_stage(connection, customer, MoveStage.GONE, held.move)


async def cancel_expected(database: Database, customer: str, move: str, *, discard: bool) -> None:
    """Removes what came while it was expected. Raises RequestRefused where something came, unless it may be
    discarded: over one broker the gateway that has the customer took it, too; else nobody did.
    """
    async with database.transaction() as connection:
        held = await require(connection, customer, MoveStage.EXPECTED, move)
        await connection.execute(sql("log_freeze"), customer)  # what is in hand here is not for here
        if not discard and await connection.fetchval(sql("log_position"), customer) > held.position:
            raise RequestRefused(
                "request.conflict",
                f"messages of {customer!r} came here while it was expected: where the other gateway has"
                " another broker they are here alone. `--discard-samples` removes them",
            )
        await set_stage(connection, customer, MoveStage.LEFT, f"{CANCELLED}{move}", is_whole=False)
        await _make_all(connection)
        for table in reversed(SMALL):
            await connection.execute(f"delete from {table.name} where {where(table)}", customer)
    await forget(database, customer)


async def _make_all(connection: Connection) -> None:
    for table in SMALL:
        await _make_room(connection, table)


async def _parts(database: Database, table: str) -> list[str]:
    """The days of a partitioned table; itself, of another."""
    async with database.connection() as connection:
        rows = await connection.fetch(sql("move_parts"), table)
    return [row["name"] for row in rows]


def _move(row: Record) -> Move:
    return Move(
        customer=row["customer_id"],
        stage=MoveStage(row["state"]),
        move=row["move_id"],
        position=row["position"],
        cut=row["cut"],
        is_whole=row["is_whole"],
    )
