"""Names of devices as people and gateways give them, made ids."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from gateway.model.topics import IDENTIFIER

MAX_NAME = 256
_HASH_CHARACTERS = 12
_NO_ID = re.compile(r"[^A-Za-z0-9._-]+")


def identifier(name: str) -> str:
    """The id of a name. A name that is an id stays as it is. Of any other the characters of ids are kept, `-`
    stands for the rest, and twelve digits of a hash of the whole name follow: two names never share an id.
    `Pump Room` is `Pump-Room-` and its hash.
    """
    if IDENTIFIER.fullmatch(name):
        return name
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    kept = _NO_ID.sub("-", plain).strip("-._")[: 63 - _HASH_CHARACTERS]
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{kept}-{digest[:_HASH_CHARACTERS]}" if kept else digest[:_HASH_CHARACTERS]
