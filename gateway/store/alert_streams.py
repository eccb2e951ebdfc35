"""The rules of connections in force, and the lease under which their alerts are worked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from gateway.bulkhead import readable
from gateway.model import alert_rule
from gateway.model.alert_rule import AlertRule
from gateway.model.errors import LeaseLost
from gateway.store.alerts import Alert, end
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertClaim:
    """A connection's alerts, ours until the lease runs out. `callable`: its system may be called. `records`:
    where the customer's record log ended.
    """

    connection: str
    customer: str
    fence: int
    attempts: int
    put_off: int
    callable: bool
    records: int

    @property
    def phase(self) -> str:
        """As the log says it: a connection has one stream of alerts."""
        return "alerts"

    @property
    def key(self) -> tuple[str, str, str]:
        """The stream."""
        return self.connection, "alerts", self.phase


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunRule:
    """A rule in force, and since when."""

    rule: AlertRule
    begun_at: datetime


async def begin(
    connection: Connection,
    connection_id: str,
    customer: str,
    rules: Sequence[AlertRule],
    *,
    configuration: int,
) -> tuple[list[Alert], list[Alert]]:
    """Brings the rules in force in line with these: what is left of alerts whose rule was removed, and of
    those whose rule judges otherwise now. The caller tells of both.

    Takes the stream whole, so no run judges meanwhile. Does nothing where a later configuration's are in
    force.
    """
    in_force = await connection.fetchval(sql("alert_rules_hold"), connection_id)
    if in_force is None and not rules:
        return [], []
    if in_force is not None and in_force > configuration:
        return [], []
    position: int = await connection.fetchval(sql("log_position"), customer)
    await connection.execute(sql("alert_begin"), connection_id, customer, position, configuration)
    held = {begun.rule.id: begun.rule for begun in await read_rules(connection, connection_id)}
    wanted = {rule.id: rule for rule in rules}
    changed = [name for name, rule in wanted.items() if name in held and not held[name].judges_as(rule)]
    removed = [name for name in held if name not in wanted]
    ended = await end(connection, connection_id, removed, why="rule_removed")
    replaced = await end(connection, connection_id, changed, why="rule_changed")
    await connection.execute(
        "delete from alert_rule where connection_id = $1 and rule_id = any($2)",
        connection_id,
        [*removed, *changed],
    )
    for name, rule in wanted.items():
        same = name in held and name not in changed
        await connection.execute(
            sql("alert_rule_put"), connection_id, name, alert_rule.to_document(rule), same
        )
    return ended, replaced


async def read_rules(connection: Connection, connection_id: str) -> list[BegunRule]:
    """Those in force. One that cannot be read is left out, and logged."""
    rows = await connection.fetch(
        "select rule_id, document, begun_at from alert_rule where connection_id = $1 order by rule_id",
        connection_id,
    )
    return readable(
        rows,
        lambda row: BegunRule(rule=alert_rule.from_document(row["document"]), begun_at=row["begun_at"]),
        name=lambda row: f"{connection_id}/{row['rule_id']}",
    )


async def clear(connection: Connection, connection_id: str) -> None:
    """Of a connection that ends: nothing is judged any more; its alerts stay for people."""
    await connection.execute("delete from alert_rule where connection_id = $1", connection_id)
    await connection.execute("delete from alert_stream where connection_id = $1", connection_id)
    await connection.execute(
        "update alert set due_at = null, noting = false where connection_id = $1 and due_at is not null",
        connection_id,
    )


# The lease


async def claim(
    database: Database,
    owner: str,
    lease_seconds: float,
    connections: Sequence[str],
    limit: int,
    *,
    in_hand: Collection[str],
) -> list[AlertClaim]:
    """Takes up to `limit` due streams that have something to do; two replicas never get the same one."""
    rows = await database.fetch(
        sql("alert_claim"), owner, lease_seconds, list(connections), limit, list(in_hand)
    )
    return [
        AlertClaim(
            connection=row["connection_id"],
            customer=row["customer_id"],
            fence=row["fence"],
            attempts=row["attempts"],
            put_off=row["put_off"],
            callable=row["callable"],
            records=row["records"],
        )
        for row in rows
    ]


async def with_streams(database: Database, connections: Sequence[str]) -> list[str]:
    """Those of these connections that have a stream at all."""
    query = "select distinct connection_id from alert_stream where connection_id = any($1)"
    return [row["connection_id"] for row in await database.fetch(query, list(connections))]


async def seconds_to_next(database: Database, connections: Sequence[str]) -> float | None:
    """How long until one of these can be claimed; None where none waits."""
    seconds: float | None = await database.fetchval(sql("alert_next"), list(connections))
    return seconds


async def renew(database: Database, claim: AlertClaim, lease_seconds: float) -> None:
    """Raises LeaseLost."""
    async with database.connection() as connection:
        if not await connection.fetchval(sql("alert_renew"), claim.connection, claim.fence, lease_seconds):
            raise _lost(claim)


async def watermark(connection: Connection, claim: AlertClaim) -> int:
    """The first step of a transaction: up to where the log is judged. The rules stay until it ends. Raises
    LeaseLost.
    """
    row = await connection.fetchrow(sql("alert_read"), claim.connection, claim.fence)
    if row is None:
        raise _lost(claim)
    found: int = row["watermark"]
    return found


async def prove(connection: Connection, claim: AlertClaim) -> None:
    """The last step of a transaction: the lease is ours, and is until the commit. Raises LeaseLost."""
    if not await connection.fetchval(sql("alert_prove"), claim.connection, claim.fence):
        raise _lost(claim)


async def finish(
    database: Database,
    claim: AlertClaim,
    *,
    next_in_seconds: float,
    calls_in_seconds: float,
    attempts: int,
    put_off: int = 0,
    changed: bool = False,
    followed: int | None = None,
) -> None:
    """Schedules the next run, and its calls, and gives the lease back. `changed`: what the status document
    shows. `followed`: up to where records were looked at, None: as far as before. Raises LeaseLost.
    """
    async with database.transaction() as connection:
        if changed:
            # the connection's row before the stream's, as every change of a connection takes them
            await connection.execute(
                "update connection set version = version + 1 where connection_id = $1", claim.connection
            )
        how = (next_in_seconds, calls_in_seconds, attempts, put_off, followed)
        if not await connection.fetchval(sql("alert_finish"), claim.connection, claim.fence, *how):
            raise _lost(claim)


def _lost(claim: AlertClaim) -> LeaseLost:
    return LeaseLost(f"the alerts of {claim.connection} are worked on by another replica")
