"""A bound on what a server may send: the driver keeps a message whole however long it says that it is, and
all rows of an answer, so a server of a customer's own could fill the memory of everybody's process.

asyncpg has no place for this. Its protocol is made in one expression of `connect_utils`, which is given ours
for the sessions of `bounding`; every other session of this process, the gateway's own pool among them, keeps
the driver's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

from asyncpg import connect_utils, protocol

MAX_MESSAGE_BYTES = 8 << 20
MAX_ANSWER_BYTES = 64 << 20
"""From one ReadyForQuery to the next: an answer to a statement of ours has a few thousand small rows."""

_READY = ord("Z")
_HEAD_BYTES = 5
_bounding: ContextVar[bool] = ContextVar("bounding", default=False)


class Frames:
    """Follows the messages of a server: a type in one byte, then four bytes of length that count themselves.

    Source: PostgreSQL, Frontend/Backend Protocol, Message Formats.
    """

    def __init__(self) -> None:
        self._head = bytearray()
        self._left = 0
        self._answer_bytes = 0

    def are_within(self, data: bytes) -> bool:
        """Whether the stream goes on within its bounds with this."""
        self._answer_bytes += len(data)
        at, end = 0, len(data)
        while at < end:
            if self._left:
                step = min(self._left, end - at)
                self._left -= step
                at += step
                continue
            step = min(_HEAD_BYTES - len(self._head), end - at)
            self._head += data[at : at + step]
            at += step
            if len(self._head) == _HEAD_BYTES:
                length = int.from_bytes(self._head[1:], "big", signed=True)
                if not 4 <= length <= MAX_MESSAGE_BYTES:
                    return False
                if self._head[0] == _READY:
                    self._answer_bytes = 0
                self._left = length - 4
                self._head.clear()
        return self._answer_bytes <= MAX_ANSWER_BYTES


class _Bounded(protocol.Protocol):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._frames = Frames()

    def data_received(self, data: Any) -> None:
        """Ends the session where the server sends what no answer to us is."""
        if self._frames.are_within(data):
            super().data_received(data)
        else:
            self.abort()


def _made(*arguments: Any) -> Any:
    return (_Bounded if _bounding.get() else protocol.Protocol)(*arguments)


setattr(connect_utils, "protocol", SimpleNamespace(Protocol=_made))  # noqa: B010 - the stubs do not know it


@contextmanager
def bounding() -> Iterator[None]:
    """Sessions that are opened within are bounded, for as long as they live."""
    token = _bounding.set(True)
    try:
        yield
    finally:
        _bounding.reset(token)
