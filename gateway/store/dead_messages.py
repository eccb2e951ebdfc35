"""Messages that are no samples, kept as dead letters by the transaction of their batch. One is known by a
digest of its topic and payload: the same message, sent again, is counted and not kept twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from gateway.store.pool import Connection
from gateway.store.queries import sql


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadMessage:
    """A message that is no sample, kept with its bytes (the first of them, when it was too large).
    `customer`: whose topic it is; None where that is nobody's. `source`: the topic template that takes it,
    where one does.
    """

    topic: str
    payload: bytes
    reason: str
    detail: str
    customer: str | None = None
    source: str | None = None
    is_retained: bool = False


def message_digest(topic: str, payload: bytes) -> bytes:
    """What a message that is a dead letter is known by."""
    return hashlib.blake2b(topic.encode("utf-8", "replace") + b"\0" + payload, digest_size=16).digest()


async def remove(connection: Connection, digests: Collection[bytes]) -> None:
    """Removes those of messages that are stored after all, in the caller's transaction."""
    await connection.execute(sql("dead_message_remove"), list(digests))


async def keep(connection: Connection, dead: Collection[DeadMessage]) -> None:
    """Keeps them as dead letters, in the caller's transaction; equal ones are counted."""
    await connection.execute(
        sql("telemetry_dead_letter"),
        [message_digest(one.topic, one.payload) for one in dead],
        [one.topic.replace("\0", "\\0") for one in dead],
        [one.reason for one in dead],
        [one.detail.replace("\0", "\\0") for one in dead],
        [one.payload for one in dead],
        [one.customer for one in dead],
        [one.source for one in dead],
        [one.is_retained for one in dead],
    )
