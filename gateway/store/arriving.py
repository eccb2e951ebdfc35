"""What a customer's archive is made of, and how it is put in force: rows from temporary tables, or from those
in which they were kept aside. Must not know files' shapes or keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.model.errors import RequestRefused
from gateway.model.moving import MoveStage
from gateway.settings import CreditsSettings
from gateway.store import credits as ledger
from gateway.store.moving import DEPARTED, STATEMENT_SECONDS, columns, require, where
from gateway.store.moving_tables import LARGE, SMALL, TABLES, OwnedBy, Table
from gateway.store.pool import Connection, Database, Session
from gateway.store.queries import sql

INCOMING = "incoming_"
CHUNK_ROWS = 20_000
"""Telemetry is merged in steps: whoever commits something of the customer waits for one of them at most."""

UNTIMED = "ts >= received_at and ts < received_at + interval '1 millisecond'"
"""Samples that had no time of their own, and got that of their receipt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Where the mark that divides a customer's messages stands in the two logs: at the source, and at the
    destination, whose log began at `begun`. Messages without a time of their own are taken from the source's
    up to it, and from the destination's behind it: a copy that each took is a sample of its own.
    """

    source: int
    begun: int
    here: int


async def write_out(connection: Connection, table: Table, customer: str, path: Path) -> list[str]:
    """Writes the customer's rows of a table into a file, as COPY has them. Returns the columns."""
    names = await columns(connection, table.name)
    source = table.name if table.is_large else f"{DEPARTED}{table.name}"
    query = f"select {', '.join(names)} from {source} where {where(table, DEPARTED)}"
    await connection.copy_from_query(query, customer, output=path, timeout=STATEMENT_SECONDS)
    return names


async def read_in(session: Session, table: Table, names: Sequence[str], path: Path) -> None:
    """Reads such a file into a temporary table of this session. Raises RequestRefused where the columns are
    not those of here: the two gateways are of different versions.
    """
    here = await columns(session, table.name)
    if here != list(names):
        differ = ", ".join(sorted({*here} ^ {*names})) or "their order"
        raise RequestRefused(
            "request.conflict",
            f"the table {table.name} has other columns here ({differ}): bring both gateways to one version",
        )
    name = f"{INCOMING}{table.name}"
    await session.execute(f"drop table if exists {name}")
    await session.execute(
        f"create temporary table {name} as select {', '.join(names)} from {table.name} with no data"
    )
    if table.name == "telemetry":
        await session.execute(f"alter table {name} add column place bigserial")
    await session.copy_to_table(
        name,
        source=path,
        columns=[one.strip('"') for one in names],
        timeout=STATEMENT_SECONDS,
    )
    if table.name == "telemetry":
        await session.execute(f"create index on {name} (place)")


_LATER = (
    "metrics = case when held.revision > excluded.revision then excluded.metrics || held.metrics"
    " else held.metrics || excluded.metrics end,"
    " received_at = greatest(held.received_at, excluded.received_at),"
    " revision = greatest(held.revision, excluded.revision), changes = held.changes + 1"
)
"""Of two states of a sample the one of the later position counts, wherever it was written: positions go on
over gateways.
"""


async def merge_telemetry(
    database: Database, session: Session, customer: str, move: str, cut: Cut | None
) -> int:
    """Puts the incoming samples beside those that are here; how many. Nothing reads them before their
    customer is in force. Done twice it changes nothing more. Raises RequestRefused where the customer is not
    expected by this move any more: whoever cancelled that removes what is here once.
    """
    await _make_days(database, session, "telemetry", "ts")
    names = ", ".join(await columns(session, "telemetry"))
    if cut is not None:
        async with session.transaction():
            await require(session, customer, MoveStage.EXPECTED, move)
            await session.execute(sql("log_hold"), customer)
            await session.execute(
                "delete from telemetry where customer_id = $1 and revision > $2 and revision <= $3"
                f" and {UNTIMED}",
                customer,
                cut.begun,
                cut.here,
                timeout=STATEMENT_SECONDS,
            )
    rows = await session.fetchval(f"select coalesce(max(place), 0) from {INCOMING}telemetry")
    past = None if cut is None else cut.source
    for low in range(0, rows, CHUNK_ROWS):
        async with session.transaction():
            await require(session, customer, MoveStage.EXPECTED, move)
            # as every writer of the customer's log: none waits for another in a circle
            await session.execute(sql("log_hold"), customer)
            await session.execute(
                f"insert into telemetry as held ({names}) select {names} from {INCOMING}telemetry"
                " where place > $1 and place <= $2"
                f" and ($3::bigint is null or revision <= $3 or not ({UNTIMED}))"
                f" on conflict (customer_id, device_id, ts) do update set {_LATER}"
                " where not held.metrics @> excluded.metrics",
                low,
                low + CHUNK_ROWS,
                past,
                timeout=STATEMENT_SECONDS,
            )
    return int(rows)


async def make_days(database: Database, session: Session) -> None:
    """The days of what `replace_large` puts in place."""
    for name in ("delivery", "withheld"):
        await _make_days(database, session, name, "window_start")


async def replace_large(connection: Connection, customer: str) -> None:
    """Deliveries and what was withheld, in place of what an earlier stay of the customer left; and the days
    that hold something. In the caller's transaction: rows are owned through names of connections, and whose a
    name is has to be checked before any of it counts.
    """
    for table in LARGE:
        if table.name == "telemetry":
            continue
        names = ", ".join(await columns(connection, table.name))
        if table.key is OwnedBy.CONNECTION:  # the days are those of what came while it was expected, too
            await connection.execute(
                f"delete from {table.name} where {where(table, INCOMING)}",
                customer,
                timeout=STATEMENT_SECONDS,
            )
        await connection.execute(
            f"insert into {table.name} ({names}) select {names} from {INCOMING}{table.name}"
            f" on conflict {table.conflict}",
            timeout=STATEMENT_SECONDS,
        )


async def _make_days(database: Database, session: Session, table: str, column: str) -> None:
    """Each in a transaction of its own: no lock of a table while rows are held."""
    rows = await session.fetch(
        f"select distinct ({column} at time zone 'UTC')::date as day from {INCOMING}{table}"
    )
    for day in sorted(row["day"] for row in rows):
        async with database.connection() as connection:
            await connection.execute("select ensure_partition($1, $2)", table, day)


_TAKEN = (
    ("connection", "connection", "connection_id", "t.connection_id = i.connection_id"),
    ("webhook endpoint", "webhook_endpoint", "endpoint_id", "t.endpoint_id = i.endpoint_id"),
    (
        "API token",
        "api_token",
        "name",
        "t.name = i.name and t.token_id <> i.token_id and t.revoked_at is null and i.revoked_at is null",
    ),
)


async def check_free(connection: Connection, customer: str) -> None:
    """Raises RequestRefused where the destination has something under a name that comes along, or keeps it of
    another customer that left.
    """
    for what, table, name, same in _TAKEN:
        query = f"select i.{name} as name from {INCOMING}{table} i join {{held}} t on {same}"
        found = await connection.fetch(query.format(held=table))
        if not found and await connection.fetchval("select to_regclass($1)", f"{DEPARTED}{table}"):
            found = await connection.fetch(
                f"{query.format(held=f'{DEPARTED}{table}')} where t.customer_id <> $1", customer
            )
        if found:
            raise RequestRefused(
                "request.conflict",
                f"there is a {what} {found[0]['name']!r} here already: names count at both gateways; remove"
                " or rename one of the two, or forget the customer that left with it",
            )


async def put(
    connection: Connection, customer: str, prefix: str, *, unheard: float, settings: CreditsSettings
) -> None:
    """Puts all rows of the tables with this prefix in force, in the caller's transaction. Raises
    CreditsInsufficient, and RequestRefused for a name that somebody took.
    """
    for table in SMALL:
        source = f"{prefix}{table.name}"
        condition = where(table, prefix) if prefix == DEPARTED else "true"
        arguments: list[object] = [customer] if prefix == DEPARTED else []
        if table.name == "connection_credit":
            await _hold_credits(connection, f"{source} where {condition}", arguments, settings)
            continue
        query = _insertion(table, await columns(connection, table.name, with_identity=False), source)
        tag = await connection.execute(
            query.format(condition=condition, prefix=prefix, unheard=repr(unheard)),
            *arguments,
            timeout=STATEMENT_SECONDS,
        )
        if table.name == "connection":  # before anything is put in force that goes by its name
            given = await connection.fetchval(f"select count(*) from {source} where {condition}", *arguments)
            if tag != f"INSERT 0 {given}":
                raise RequestRefused(
                    "request.conflict",
                    "the name of a connection was taken meanwhile: the same command says which",
                )


def _insertion(table: Table, names: Sequence[str], source: str) -> str:
    """With `{condition}`, `{prefix}` and `{unheard}` left to fill in."""
    values = [table.resets.get(name.strip('"'), f"given.{name}") for name in names]
    rows = f"(select * from {source} where {{condition}}) given"
    if table.name == "webhook_delivery":
        values = [
            "own.position" if name == '"position"' else value
            for name, value in zip(names, values, strict=True)
        ]
        rows += (
            " join {prefix}event told on told.position = given.position"
            " join event own on own.event_id = told.event_id order by own.position"
        )
    else:
        order = {
            "event": "position",
            "dead_letter": "dead_letter_id",
            "connection_audit": "audit_id",
            "sync_run": "run_id",
        }
        if table.name in order:
            rows += f" order by given.{order[table.name]}"
    return (
        f"insert into {table.name} ({', '.join(names)}) select {', '.join(values)} from {rows}"
        f" on conflict {table.conflict}"
    )


async def _hold_credits(
    connection: Connection, source: str, arguments: Sequence[object], settings: CreditsSettings
) -> None:
    rows = await connection.fetch(
        f"select connection_id, customer_id, account, amount from {source}", *arguments
    )
    for row in sorted(rows, key=lambda row: str(row["connection_id"])):
        await ledger.hold(
            connection,
            connection_id=row["connection_id"],
            customer=row["customer_id"],
            amount=row["amount"],
            settings=settings,
        )
        if row["account"] == "posted":
            await ledger.post(connection, connection_id=row["connection_id"])


async def clear_incoming(session: Session) -> None:
    """The temporary tables are gone."""
    for table in TABLES:
        await session.execute(f"drop table if exists {INCOMING}{table.name}")
