"""Edge nodes of Sparkplug B: what their births defined and how far each was read. Written by the transaction
that stores what they sent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import orjson

from gateway.payloads.sparkplug.births import Birth, NodeDevice
from gateway.payloads.sparkplug.definitions import from_stored
from gateway.payloads.sparkplug.node import Node
from gateway.payloads.sparkplug.waiting import WaitingMessages
from gateway.store.pool import Connection, Database
from gateway.store.queries import sql

NodeKey = tuple[str, str]
"""Customer, and group and edge node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A node to be stored. `ids`: of its devices that changed."""

    key: NodeKey
    node: Node
    ids: Mapping[str, str]


async def load(database: Database, keys: Collection[NodeKey]) -> dict[NodeKey, Node]:
    """Those of the nodes that were ever heard of. Raises StoreError."""
    rows = await database.fetch(
        sql("sparkplug_load"), [customer for customer, _ in keys], [node for _, node in keys]
    )
    return {(row["customer_id"], row["node"]): _node(dict(row)) for row in rows}


def _node(row: Mapping[str, object]) -> Node:
    found = Node(
        bd_seq=row["bd_seq"],  # type: ignore[arg-type]
        next=row["next_seq"],  # type: ignore[arg-type]
        until=row["until"],  # type: ignore[arg-type]
        waiting=WaitingMessages(gap_at=row["gap_at"]),  # type: ignore[arg-type]
        is_certain=row["is_certain"],  # type: ignore[arg-type]
    )
    for device, births, offline in row["devices"] or ():  # type: ignore[attr-defined]
        found.births.devices[device] = NodeDevice([Birth(*birth) for birth in births], offline)
    for digest, lines in row["definitions"] or ():  # type: ignore[attr-defined]
        found.births.definitions[digest] = from_stored(lines)
    return found


async def store(connection: Connection, known: Sequence[Known]) -> None:
    """Writes what is known now; in the caller's transaction."""
    known = sorted(known, key=lambda one: one.key)
    await connection.execute(
        sql("sparkplug_nodes"),
        [one.key[0] for one in known],
        [one.key[1] for one in known],
        [one.node.bd_seq for one in known],
        [one.node.next for one in known],
        [one.node.until for one in known],
        [one.node.waiting.gap_at for one in known],
        [one.node.is_certain for one in known],
    )
    if devices := [(one, device) for one in known for device in sorted(one.ids)]:
        await connection.execute(
            sql("sparkplug_devices"),
            [one.key[0] for one, _ in devices],
            [one.key[1] for one, _ in devices],
            [device for _, device in devices],
            [one.ids[device] for one, device in devices],
            [_births(one.node.births.devices[device]) for one, device in devices],
            [one.node.births.devices[device].offline_at for one, device in devices],
        )
    if defined := [(one, digest) for one in known for digest in sorted(one.node.births.defined)]:
        kept = [(*one.key, list(one.node.births.definitions)) for one in known if one.node.births.defined]
        await connection.execute(
            sql("sparkplug_definitions"),
            [one.key[0] for one, _ in defined],
            [one.key[1] for one, _ in defined],
            [digest for _, digest in defined],
            [one.node.births.definitions[digest].payload().decode() for one, digest in defined],
            orjson.dumps(kept).decode(),
        )


def _births(device: NodeDevice) -> str:
    return orjson.dumps([(birth.at, birth.until, birth.digest) for birth in device.births]).decode()


async def forget(database: Database, after: timedelta) -> None:
    """Forgets nodes that sent nothing for so long. Raises StoreError."""
    await database.execute(sql("sparkplug_forget"), after)
