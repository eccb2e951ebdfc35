"""The body of an answer, read within bounds and decompressed by ourselves: never more than the cap is ever in
memory, whatever was sent.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator

TURN = 64
"""Pieces of an answer after which others have their turn: many may come at once, and each is parsed."""

MAX_PIECES = 10_000
MIN_PIECE_BYTES = 64
"""Of so many pieces, on average: smaller ones cost more to parse than they bring."""


class BodyRefused(Exception):
    """A body that is not read to its end; what is wrong with it, said of the system's answer."""


async def read_body(pieces: AsyncIterator[bytes], encoding: str, *, max_bytes: int) -> bytes:
    """The whole of it. Raises BodyRefused, and what `pieces` raises."""
    if encoding not in ("identity", "gzip", "x-gzip", ""):
        raise BodyRefused(f"was in the encoding {encoding[:20]!r}, which was not asked for")
    inflate = zlib.decompressobj(wbits=31) if "gzip" in encoding else None
    body = bytearray()
    received = count = 0
    async for piece in pieces:
        received, count = received + len(piece), count + 1
        if count % TURN == 0:
            await asyncio.sleep(0)
        if count > MAX_PIECES and received < count * MIN_PIECE_BYTES:
            raise BodyRefused(f"comes in more than {MAX_PIECES} pieces of a few bytes")
        try:
            body += piece if inflate is None else inflate.decompress(piece, max_bytes + 1 - len(body))
        except zlib.error as error:
            raise BodyRefused(f"is not valid gzip: {error}") from error
        if inflate is not None and inflate.unused_data:
            # whatever came behind would be kept, and copied with each piece
            raise BodyRefused("goes on behind its gzip data")
        if max(len(body), received) > max_bytes:
            raise BodyRefused(f"is larger than {max_bytes} bytes")
    if inflate is not None and body and not inflate.eof:
        raise BodyRefused("ends in the middle of its gzip data")
    return bytes(body)
