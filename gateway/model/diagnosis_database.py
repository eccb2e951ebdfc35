"""What a look at PostgreSQL means. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from gateway.model.diagnosis import Finding, Looked, looked, named, problem, size, span, warning

OLDEST_VERSION = 150_000
OPEN_SECONDS = 900.0
"""A transaction of ours takes seconds; one of somebody else that is open for longer holds back what vacuum
may remove.
"""

PREPARED_SECONDS = 300.0
FULL = 0.9
"""Of the sessions that the server has."""

LAG_SECONDS = 60.0
SLOT_BYTES = 1 << 30
FREE_WARNING, FREE_PROBLEM = 0.15, 0.05
"""Of the disk."""

DEAD_ROWS = 100_000
DEAD_SHARE = 0.5
TRANSACTION_AGE = 1_000_000_000
"""At two thousand million PostgreSQL stops taking writes."""

SKEW_SECONDS = 2.0
"""Leases are on the clock of the database, times of readings on ours."""

WHERE = "database.dsn"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """Of the server and of its settings. A limit of sessions that is -1 is none. `data_directory`: None where
    this role may not know it.
    """

    version: int
    at: datetime
    is_read_only: bool
    fsync: bool
    full_page_writes: bool
    synchronous_commit: str
    autovacuum: bool
    synchronous_standbys: str
    server_sessions: int
    used_sessions: int
    role_sessions: int
    database_sessions: int
    transaction_age: int
    sees_all: bool
    data_directory: str | None
    is_local: bool
    bytes: int
    archiving_fails: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldingSession:
    """A session or a prepared transaction that holds something back."""

    what: Literal["open", "waiting", "prepared"]
    name: str
    owner: str
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """A standby (`holds`: a commit waits for it) or a replication slot (`holds`: somebody reads it)."""

    what: Literal["standby", "slot"]
    name: str
    detail: str
    holds: bool
    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """A table with many dead rows."""

    name: str
    live: int
    dead: int
    vacuumed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFacts:
    """Of the file system that holds the data."""

    total: int
    free: int


def judge_server(server: ServerFacts) -> Looked:
    """Whether it is one that the promises hold on."""
    return looked(_of_the_server(server))


def judge_migrations(missing: Sequence[str], unknown: Sequence[str]) -> Looked:
    """Whether the schema is of this version."""
    found = []
    if unknown:
        advice = "run the newer version of Fieldgate; there is no way back but a restored backup"
        found.append(
            problem(
                f"the database is newer than this version: it has {named(unknown)}",
                where=WHERE,
                advice=advice,
            )
        )
    if missing:
        advice = "`fieldgate migrate` applies them, and so does a start of the gateway"
        found.append(problem(f"migrations are not applied: {named(missing)}", where=WHERE, advice=advice))
    return looked(found)


def judge_sessions(server: ServerFacts, *, replica_needs: int, replicas: int) -> Looked:
    """Whether there are as many sessions as the replicas use, and one more replica, which a roll-out has for
    a while.
    """
    limits = {
        "max_connections": server.server_sessions,
        "the role's connection limit": server.role_sessions,
        "the database's connection limit": server.database_sessions,
    }
    name, limit = min(
        ((name, limit) for name, limit in limits.items() if limit >= 0), key=lambda pair: pair[1]
    )
    needed = replica_needs * (max(1, replicas) + 1)
    found = []
    if limit < needed:
        found.append(
            warning(
                f"{name} leaves {limit} sessions; {max(1, replicas)} replicas and one that starts take up to"
                f" {needed} ({replica_needs} each)",
                where=WHERE,
                advice="raise max_connections (or the limit), or lower database.pool_size",
            )
        )
    if server.used_sessions >= FULL * server.server_sessions:
        found.append(
            problem(
                f"{server.used_sessions} of {server.server_sessions} sessions are taken",
                where=WHERE,
                advice="end sessions that nobody needs (pg_stat_activity), or raise max_connections",
            )
        )
    return looked(found)


def judge_transactions(holdings: Sequence[HoldingSession], *, sees_all: bool) -> Looked:
    """Whether anything holds back vacuum, or makes others wait."""
    unseen = [
        (
            None
            if sees_all
            else "sessions of other roles: grant pg_read_all_stats to the gateway's role to see them"
        )
    ]
    return looked((_of_a_holding(each) for each in holdings), unseen)


def judge_replication(
    server: ServerFacts, followers: Sequence[Follower], *, hosts: int, sees_all: bool
) -> Looked:
    """Whether what is committed has a second place, where the configuration says that it should."""
    unseen = [
        (
            None
            if sees_all or not (server.synchronous_standbys or hosts > 1)
            else "standbys: grant pg_read_all_stats to the gateway's role to see them"
        )
    ]
    return looked(_of_the_replication(server, followers, hosts=hosts, sees_all=sees_all), unseen)


def judge_disk(server: ServerFacts, disk: DiskFacts | None) -> Looked:
    """Whether there is room. `disk` None: it is on another machine, or hidden."""
    found = []
    if server.archiving_fails:
        found.append(
            problem(
                "archiving of the write-ahead log fails: it is kept until the disk is full",
                where=WHERE,
                advice="see the server's log and mend archive_command (pg_stat_archiver)",
            )
        )
    if disk is not None and disk.free < FREE_WARNING * disk.total:
        make = problem if disk.free < FREE_PROBLEM * disk.total else warning
        found.append(
            make(
                f"{size(disk.free)} of {size(disk.total)} are free; the database holds {size(server.bytes)}",
                where=server.data_directory or WHERE,
                advice=(
                    "enlarge the disk, or lower telemetry.retention and telemetry.buffer; nothing is lost"
                    " when it is full, and nothing taken"
                ),
            )
        )
    unseen = [
        (
            None
            if disk is not None
            else "free disk: the data directory cannot be seen from here; watch it where PostgreSQL runs"
        )
    ]
    return looked(found, unseen)


def judge_bloat(server: ServerFacts, tables: Sequence[TableFacts]) -> Looked:
    """Whether vacuum keeps up."""
    found = []
    if not server.autovacuum:
        advice = "alter system set autovacuum = on; select pg_reload_conf()"
        found.append(problem("autovacuum is off: tables only grow", where=WHERE, advice=advice))
    found += [
        warning(
            f"{table.dead} of {table.live + table.dead} rows are dead, and vacuum does not remove them",
            where=f"table {table.name}",
            advice="see transactions for what holds it back, then `vacuum analyze` the table",
        )
        for table in tables
        if table.dead >= DEAD_SHARE * (table.live + table.dead)
    ]
    if server.transaction_age > TRANSACTION_AGE:
        found.append(
            problem(
                f"the oldest row is {server.transaction_age:,} transactions old; at 2,000,000,000 the server"
                " stops",
                where=WHERE,
                advice="see transactions for what holds back vacuum, then `vacuum freeze` the database",
            )
        )
    return looked(found)


def judge_database_clock(offset_seconds: float, uncertain_seconds: float) -> Looked:
    """`offset_seconds`: how far the database is ahead of us, give or take half of what the question took."""
    if abs(offset_seconds) <= SKEW_SECONDS + uncertain_seconds:
        return looked([])
    direction = "ahead of" if offset_seconds > 0 else "behind"
    advice = "let both machines follow the same time servers (chrony, systemd-timesyncd)"
    return looked(
        [
            warning(
                f"the database's clock is {abs(offset_seconds):.1f} s {direction} this machine's",
                where=WHERE,
                advice=advice,
            )
        ]
    )


def _of_the_server(server: ServerFacts) -> Iterator[Finding]:
    if server.version < OLDEST_VERSION:
        yield problem(
            f"PostgreSQL {server.version // 10_000} is too old: 15 is needed",
            where=WHERE,
            advice="upgrade the server (pg_upgrade)",
        )
    if server.is_read_only:
        advice = (
            "name a primary in database.dsn, or end what made it read-only (default_transaction_read_only, a"
            " standby)"
        )
        yield problem("the server takes no writes", where=WHERE, advice=advice)
    if not server.fsync or not server.full_page_writes:
        name = "full_page_writes" if server.fsync else "fsync"
        yield problem(
            f"{name} is off: a crash of the machine can lose or spoil what was acknowledged",
            where=WHERE,
            advice=f"alter system set {name} = on; select pg_reload_conf()",
        )
    if server.synchronous_commit == "off":
        yield problem(
            "synchronous_commit is off: a crash of the server loses what was acknowledged last",
            where=WHERE,
            advice="take the setting out of the server, the role and the database, or set it to on",
        )


def _of_a_holding(each: HoldingSession) -> Finding | None:
    match each.what:
        case "open":
            advice = f"end it where nobody needs it: select pg_terminate_backend({each.name})"
            who = " ".join(part for part in (each.owner, each.detail and f"({each.detail})") if part)
            return warning(
                f"a transaction is open for {span(each.seconds)}: vacuum removes nothing that is newer",
                where=f"session {each.name}{who and f' of {who}'}",
                advice=advice,
            )
        case "waiting":
            advice = (
                f"see what the sessions {each.detail or '(gone)'} do in pg_stat_activity; end them where"
                " nobody needs them"
            )
            return problem(
                f"a statement waits for a lock for {span(each.seconds)}",
                where=f"session {each.name}{each.owner and f' of {each.owner}'}",
                advice=advice,
            )
        case "prepared":
            if each.seconds < PREPARED_SECONDS:
                return None
            advice = (
                f"in the database {each.detail}: commit prepared or rollback prepared '{each.name}';"
                " Fieldgate prepares none"
            )
            return problem(
                f"a prepared transaction of {each.owner} is open for {span(each.seconds)}: it keeps its locks"
                " over every restart",
                where=f"prepared transaction {each.name}",
                advice=advice,
            )


def _of_the_replication(
    server: ServerFacts, followers: Sequence[Follower], *, hosts: int, sees_all: bool
) -> Iterator[Finding]:
    standbys = [each for each in followers if each.what == "standby"]
    if sees_all:
        if server.synchronous_standbys and not any(each.holds for each in standbys):
            yield problem(
                "no synchronous standby follows, and synchronous_standby_names is"
                f" {server.synchronous_standbys!r}: every commit waits",
                where=WHERE,
                advice="start the standby, or take it out of synchronous_standby_names",
            )
        elif hosts > 1 and not standbys:
            yield problem(
                f"database.dsn names {hosts} hosts, and no standby follows this one: there is nothing to fail"
                " over to",
                where=WHERE,
                advice="start the standby and see that it streams (pg_stat_replication)",
            )
        elif hosts > 1 and not server.synchronous_standbys:
            yield warning(
                "no standby is synchronous: a fail-over loses what was acknowledged last",
                where=WHERE,
                advice="set synchronous_standby_names (docs/high-availability.md)",
            )
    for each in standbys:
        if each.seconds > LAG_SECONDS or each.detail not in ("streaming", ""):
            yield warning(
                f"the standby is {each.detail or 'behind'} and {span(each.seconds)} behind",
                where=f"standby {each.name}",
                advice="see the standby's log; a base backup makes one anew that is too far behind",
            )
    for each in followers:
        if each.what == "slot" and not each.holds and each.bytes > SLOT_BYTES:
            yield warning(
                f"nobody reads this replication slot, and it keeps {size(each.bytes)} of log on the disk",
                where=f"replication slot {each.name}",
                advice=f"start its reader, or select pg_drop_replication_slot('{each.name}')",
            )
