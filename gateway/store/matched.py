"""Metrics that a connection's patterns match: each is compared once, in the transaction that looks at its
first samples, and mapped before they are.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from gateway.model.meter import (
    MAX_MATCHED_METRICS,
    MAX_METERS,
    MeterConflict,
    MeterRule,
    MetersRefused,
    materialise,
)
from gateway.store import mappings, meters_made
from gateway.store.pool import Connection
from gateway.store.queries import sql

MAX_EXPRESSION = 5_000
"""Characters of patterns that are looked for together."""

_WILDCARDS = re.compile(r"[*?]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Metrics by device that were never compared, and the devices that have too many of them."""

    metrics: Mapping[str, Sequence[str]]
    beyond: Sequence[str]


def patterns(rules: Sequence[MeterRule]) -> list[MeterRule]:
    """The rules that need to know metrics."""
    return [rule for rule in rules if rule.is_metric_glob]


async def in_slice(
    connection: Connection,
    connection_id: str,
    customer: str,
    rules: Sequence[MeterRule],
    bounds: tuple[int, int],
) -> Found:
    """Of the samples past the first position, up to the second."""
    return await _found(connection, "metrics_fresh", connection_id, customer, rules, bounds)


async def in_history(
    connection: Connection,
    connection_id: str,
    customer: str,
    rules: Sequence[MeterRule],
    bounds: tuple[datetime, datetime],
) -> Found:
    """Of the samples from the first time on, before the second."""
    return await _found(connection, "metrics_past", connection_id, customer, rules, bounds)


async def held(connection: Connection, connection_id: str) -> dict[str, set[str]]:
    """What was compared, by device."""
    rows = await connection.fetch(
        "select device_id, metric from matched_metric where connection_id = $1", connection_id
    )
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["device_id"], set()).add(row["metric"])
    return found


async def keep_only(
    connection: Connection,
    connection_id: str,
    metrics: Mapping[str, Collection[str]],
    rules: Sequence[MeterRule],
) -> None:
    """Forgets what no pattern of these rules matches any more."""
    wanted = patterns(rules)
    kept = [
        (device, metric)
        for device, names in metrics.items()
        for metric in names
        if any(rule.feeds_from(device, metric) for rule in wanted)
    ]
    if len(kept) < sum(map(len, metrics.values())):
        await connection.execute(sql("metrics_matched_keep"), connection_id, *_columns(kept))


async def add(
    connection: Connection,
    connection_id: str,
    found: Found,
    rules: Sequence[MeterRule],
    resolution: timedelta,
) -> list[MeterConflict | MetersRefused]:
    """Maps what was found, and nothing else; what was refused. The caller's transaction marks the samples."""
    refused: list[MeterConflict | MetersRefused] = [
        MetersRefused(limit=MAX_MATCHED_METRICS, device=device) for device in found.beyond
    ]
    if not found.metrics:
        return refused
    known: int = await connection.fetchval(sql("meters_room"), connection_id)
    # All rules of these devices: one that names its metric wins over a pattern, and the walk may be the first
    # to see a device.
    theirs = [rule for rule in rules if rule.is_glob or rule.device in found.metrics]
    wanted, conflicts = await asyncio.to_thread(
        materialise, theirs, found.metrics, resolution=resolution, metrics=found.metrics
    )
    held_already = await mappings.held_of(connection, connection_id, wanted)
    fresh = sorted(
        (one for meter, one in wanted.items() if meter not in held_already), key=lambda one: one.meter
    )
    room = max(0, MAX_METERS - known)
    if len(fresh) > room:
        conflicts.append(MetersRefused(limit=MAX_METERS))
        fresh = fresh[:room]
    await mappings.put(connection, connection_id, fresh)
    await meters_made.want(connection, connection_id, fresh, all_of_them=False)
    compared = [(device, metric) for device, names in found.metrics.items() for metric in names]
    await connection.execute(sql("metrics_matched_add"), connection_id, *_columns(compared))
    if fresh:
        await connection.execute(sql("meters_added"), connection_id, known + len(fresh))
    return [
        *refused,
        *conflicts,
        *(
            MeterConflict(meter=meter, kept=kept, refused=wanted[meter])
            for meter, kept in held_already.items()
            if (kept.device, kept.metric) != (wanted[meter].device, wanted[meter].metric)
        ),
    ]


async def _found(
    connection: Connection,
    name: str,
    connection_id: str,
    customer: str,
    rules: Sequence[MeterRule],
    bounds: tuple[object, object],
) -> Found:
    wanted = patterns(rules)
    # A connection that is full is not looked at: whoever changes its rules has everything compared anew.
    if await mappings.count(connection, connection_id) >= MAX_METERS:
        return Found(metrics={}, beyond=())
    rows: list[asyncpg.Record] = await connection.fetch(
        sql(name),
        customer,
        *bounds,
        connection_id,
        [_like(rule.device, brackets=True) for rule in wanted],
        [_like(rule.metric, brackets=False) for rule in wanted],
        MAX_MATCHED_METRICS,
        _expression({rule.metric for rule in wanted}),
    )
    metrics: dict[str, list[str]] = {}
    for row in rows:
        if not row["is_beyond"]:
            metrics.setdefault(row["device_id"], []).append(row["metric"])
    return Found(metrics=metrics, beyond=[row["device_id"] for row in rows if row["is_beyond"]])


def _columns(pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [device for device, _ in pairs], [metric for _, metric in pairs]


def _expression(globs: Collection[str]) -> str:
    """What fits every name that one of the patterns fits, and few others, in one look: as PostgreSQL has
    regular expressions. A pattern counts by how it begins and ends, for whoever writes it may give it a
    hundred wildcards, and an expression of those takes seconds for a name. Anything, where a pattern has
    neither, or where they are too long together.
    """
    if sum(map(len, globs)) > MAX_EXPRESSION:
        return ""
    cut = {tuple(map(re.escape, (parts[0], *parts[1:][-1:]))) for parts in map(_WILDCARDS.split, globs)}
    return "" if ("", "") in cut else f"^(?:{'|'.join(sorted(map('.*'.join, cut)))})$"


def _like(glob: str, *, brackets: bool) -> str:
    """What LIKE takes for it; from a bracket on anything, for the rules decide."""
    head, bracket, _ = glob.partition("[") if brackets else (glob, "", "")
    marks = {"*": "%", "?": "_", "%": "\\%", "_": "\\_", "\\": "\\\\"}
    return "".join(marks.get(character, character) for character in head) + ("%" if bracket else "")
