"""What a look at the gateway's own work means: credits, connections, streams, leases, retention, webhooks and
devices. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from gateway.model.connection import State
from gateway.model.credits import Book, by_customer, disagreements
from gateway.model.diagnosis import (
    Finding,
    Looked,
    looked,
    named,
    not_made,
    problem,
    span,
    warning,
)

DEGRADED_SECONDS = 3600.0
LAG_SECONDS = 3600.0
STUCK_SECONDS = 600.0
"""A stream that is due is taken within seconds by whoever has a worker free."""

FAILING_SECONDS = 3600.0
PENDING_EVENTS = 10_000
SILENT_SECONDS = 86_400.0
FORGOTTEN_SECONDS = 30 * 86_400.0
QUIET_SECONDS = 3_600.0
"""Nothing from any device for so long is no accident of one of them."""

RETENTION_GRACE = timedelta(days=1)
"""A day is dropped within an hour of its end."""

ROLES = ("gateway_status", "outbox", "records", "commands")
"""Leases of which one replica each holds one, always."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwell:
    """A connection, its state and how long its oldest closed window waits."""

    connection: str
    state: State
    since: datetime
    reason: str | None
    lag_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """A stream that is due and that nobody works on."""

    connection: str
    kind: str
    seconds: float
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLease:
    """A lease that runs. `is_orphan`: the replica that took it is gone."""

    name: str
    owner: str
    seconds: float
    is_orphan: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """A daily partition that is older than its retention. `readers`: connections that
    have not done with it.
    """

    name: str
    day: date
    readers: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """A webhook endpoint."""

    endpoint: str
    url: str
    pending: int
    failing_since: datetime | None
    last_error: str | None
    disabled_at: datetime | None
    disabled_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicesFacts:
    """`silent`: heard within 30 days and not within one."""

    known: int
    heard_at: datetime | None
    silent: int
    names: Sequence[str]


def judge_credits(book: Book) -> Looked:
    """Whether the counters reconcile, and whether credits are left."""
    return looked(_of_the_credits(book))


def _of_the_credits(book: Book) -> Iterator[Finding]:
    for text in disagreements(book):
        yield problem(
            f"counters of credits do not reconcile: {text}",
            where="fieldgate credits",
            advice="docs/credits.md says what to do; change nothing by hand",
        )
    pool = book.pool
    if pool is not None and pool.is_low and pool.used:
        make = warning if pool.available else problem
        yield make(
            f"{pool.used} of {pool.capacity} credits are used",
            where="credits.capacity",
            advice="raise credits.capacity, or disconnect what is no longer needed",
        )
    for customer, share in by_customer(book).items():
        quota = book.quotas.get(customer)
        if quota and share.credits >= quota:
            yield warning(
                f"customer {customer} uses {share.credits} of the {quota} credits that it may",
                where=f"credits.customer_quota.{customer}",
                advice="raise the quota, or disconnect what is no longer needed",
            )


def judge_connections(unwell: Iterable[Unwell], left_out: int, now: datetime) -> Looked:
    """Connections that need a person, or that are far behind."""
    return looked(
        (_of_a_connection(each, now) for each in unwell),
        [f"{left_out} more connections that need a person"] if left_out else [],
    )


def _of_a_connection(each: Unwell, now: datetime) -> Finding | None:
    where, name = f"connection {each.connection}", each.connection
    for_long = span((now - each.since).total_seconds())
    why = f": {each.reason}" if each.reason else ""
    match each.state:
        case State.REAUTHORIZATION_REQUIRED:
            advice = f"`fieldgate connections reauthorize {name}` makes a link for the customer"
            return problem(f"new credentials are required for {for_long}{why}", where=where, advice=advice)
        case State.BLOCKED:
            advice = f"mend it at the system, then `fieldgate connections recheck {name}`"
            return problem(f"blocked for {for_long}{why}", where=where, advice=advice)
        case State.DEGRADED if (now - each.since).total_seconds() > DEGRADED_SECONDS:
            advice = f"see the system; `fieldgate connections show {name}` tells the incident"
            return warning(f"degraded for {for_long}{why}", where=where, advice=advice)
        case _ if each.lag_seconds > LAG_SECONDS:
            advice = f"see what the system takes; `fieldgate connections show {name}` tells how much waits"
            return warning(
                f"the oldest reading waits for {span(each.lag_seconds)}", where=where, advice=advice
            )
        case _:
            return None


def judge_streams(stuck: Iterable[Stuck], *, replicas: int) -> Looked:
    """Streams that nobody works on although they are due."""
    advice = (
        "see the gateway's log for this connection; `fieldgate connections recheck` builds it anew"
        if replicas
        else "no gateway is running: start one"
    )
    return looked(
        warning(
            f"{each.kind}: due for {span(each.seconds)}, and nobody works on"
            f" it{f' ({each.error})' if each.error else ''}",
            where=f"connection {each.connection}",
            advice=advice,
        )
        for each in stuck
    )


def judge_leases(
    held: Iterable[HeldLease], names: frozenset[str], *, replicas: int, partitions: int, lease_seconds: float
) -> Looked:
    """Whether each part of the work has a replica that does it, and no lease stands in the way."""
    return looked(
        _of_the_leases(held, names, replicas=replicas, partitions=partitions, lease_seconds=lease_seconds)
    )


def _of_the_leases(
    held: Iterable[HeldLease], names: frozenset[str], *, replicas: int, partitions: int, lease_seconds: float
) -> Iterator[Finding]:
    if not replicas:
        yield problem(
            "no gateway is running: nothing is taken in or delivered",
            where="fieldgate run",
            advice="start it, and see its log",
        )
    else:
        for number in range(partitions):
            if f"ingest/{number}" not in names:
                yield problem(
                    f"nobody takes in the telemetry of partition {number}",
                    where=f"lease ingest/{number}",
                    advice=(
                        "see the gateway's log for the broker's answer; the broker keeps what comes meanwhile"
                    ),
                )
        for role in ROLES:
            if role not in names:
                yield warning(
                    "nobody does this part of the work", where=f"lease {role}", advice="see the gateway's log"
                )
    for each in held:
        if each.is_orphan and replicas:
            yield warning(
                f"{each.owner} is gone and still has this lease, for {span(each.seconds)}",
                where=f"lease {each.name}",
                advice="it ends by itself; where it does not, see the clock of the database",
            )
        elif each.seconds > 20 * lease_seconds:
            yield warning(
                f"the lease ends in {span(each.seconds)}, a lease takes {span(lease_seconds)}: the database's"
                " clock was set back",
                where=f"lease {each.name}",
                advice="see the clock of the database; set lease_until of this row to now()",
            )


def judge_retention(overdue: Iterable[Overdue], now: datetime, buffer: timedelta) -> Looked:
    """Whether days past their retention go, and for whom those that stay are kept."""
    return looked(_of_the_retention(overdue, now, buffer))


def _of_the_retention(overdue: Iterable[Overdue], now: datetime, buffer: timedelta) -> Iterator[Finding]:
    for each in overdue:
        goes = each.day + timedelta(days=1) + timedelta(days=buffer.days)
        if each.readers and goes >= now.date():
            yield warning(
                f"{each.day} is past its retention and kept for {named(each.readers)}; it goes on {goes},"
                " read or not",
                where=f"table {each.name}",
                advice=(
                    "let these connections deliver again (resume, reauthorize, recheck), or disconnect them"
                ),
            )
        elif now.date() - goes > RETENTION_GRACE or (
            not each.readers and now.date() - each.day > RETENTION_GRACE
        ):
            yield warning(
                f"{each.day} is past its retention and was not dropped",
                where=f"table {each.name}",
                advice=(
                    "see store.retention_deferred in the gateway's log, and transactions for who holds the"
                    " table"
                ),
            )


def judge_webhooks(hooks: Iterable[Hook], now: datetime) -> Looked:
    """Whether what is told arrives."""
    return looked(_of_a_hook(each, now) for each in hooks)


def _of_a_hook(each: Hook, now: datetime) -> Finding | None:
    where = f"webhook {each.endpoint} ({each.url})"
    why = f": {each.last_error}" if each.last_error else ""
    if each.disabled_at is not None:
        return problem(
            f"disabled since {each.disabled_at:%Y-%m-%d %H:%M}Z ({each.disabled_reason}){why}; {each.pending}"
            " events wait",
            where=where,
            advice=f"mend the endpoint, then `fieldgate webhooks enable {each.endpoint}`",
        )
    if each.failing_since is not None and (now - each.failing_since).total_seconds() > FAILING_SECONDS:
        return warning(
            f"fails for {span((now - each.failing_since).total_seconds())}{why}; {each.pending} events wait",
            where=where,
            advice=f"mend the endpoint; `fieldgate webhooks test {each.endpoint}` sends one event",
        )
    if each.pending > PENDING_EVENTS:
        return warning(
            f"{each.pending} events wait",
            where=where,
            advice=(
                "let the endpoint answer faster: an event waits for the one before it of the same connection"
            ),
        )
    return None


def judge_devices(facts: DevicesFacts, now: datetime) -> Looked:
    """Whether devices are heard."""
    if facts.heard_at is None:
        return not_made("no device was ever heard; `fieldgate discover` shows what is published")
    if (quiet := (now - facts.heard_at).total_seconds()) > QUIET_SECONDS:
        return looked(
            [
                problem(
                    f"nothing was received from any of {facts.known} devices for {span(quiet)}",
                    where="broker and telemetry.sources",
                    advice=(
                        "see whether devices publish (`fieldgate discover`), and whether the broker's ACL"
                        " lets the gateway read it"
                    ),
                )
            ]
        )
    if not facts.silent:
        return looked([])
    return looked(
        [
            warning(
                f"{facts.silent} of {facts.known} devices were heard within 30 days and not within the last",
                where=named(facts.names),
                advice="see to the devices; `fieldgate devices show` tells what each sent last",
            )
        ]
    )
