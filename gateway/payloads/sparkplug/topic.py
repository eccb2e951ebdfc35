"""Topics of Sparkplug, and what ids its nodes and devices get.

Source: Sparkplug 3.0, 4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from gateway.model.errors import DecodeError
from gateway.model.names import MAX_NAME, identifier
from gateway.model.topics import IDENTIFIER
from gateway.payloads.formats.values import Reason

Kind = Literal["NBIRTH", "NDATA", "NDEATH", "DBIRTH", "DDATA", "DDEATH"]
KINDS = frozenset(get_args(Kind))
COMMANDS = frozenset({"NCMD", "DCMD"})
STATE = "STATE"
NAMESPACE = "spBv1.0"
_PART = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Whose message it is. `kind` None: a command or a host's state, which is not for us. `device` is empty
    where it is the edge node's own.
    """

    kind: Kind | None
    group: str
    edge: str = ""
    device: str = ""
    prefix: str = ""

    @property
    def node(self) -> str:
        """Group and edge node, as one key; neither has a slash in it."""
        return f"{self.group}/{self.edge}"

    @property
    def command_topic(self) -> str:
        """Where the edge node listens."""
        return f"{self.prefix}{self.group}/NCMD/{self.edge}"


def address(topic: str, place: int) -> Address:
    """`place`: which level is the group. Raises DecodeError for what is no topic of Sparkplug."""
    levels = topic.split("/")
    group, rest = levels[place], levels[place + 1 :]
    if group == STATE or (rest and (rest[0] in COMMANDS or rest[0] == STATE)):
        return Address(kind=None, group=group)
    kind = rest[0] if rest else ""
    wanted = 3 if kind.startswith("D") else 2
    if kind not in KINDS or len(rest) != wanted or not all(rest[1:]):
        raise DecodeError(
            Reason.UNMATCHED_TOPIC,
            "no topic of Sparkplug B: group/NBIRTH/node, group/DDATA/node/device or the like is",
        )
    if not all(len(name.encode()) <= MAX_NAME and name.isprintable() for name in (group, *rest[1:])):
        raise DecodeError(
            Reason.INVALID_IDENTIFIER,
            f"group, edge node and device have 1 to {MAX_NAME} bytes of printable characters each",
        )
    prefix = "/".join(levels[:place])
    return Address(
        kind=kind,  # type: ignore[arg-type]
        group=group,
        edge=rest[1],
        device=rest[2] if wanted == 3 else "",
        prefix=f"{prefix}/" if prefix else "",
    )


def device_id(found: Address, device: str, *, with_group: bool) -> str:
    """The id of a device, or of the edge node itself (`device` empty): `edge.device`, the group before it
    where that does not say whose it is. Names with a dot or another character that ids or their parts cannot
    have get a hash: no two of them share an id.
    """
    parts = [*([found.group] if with_group else []), found.edge, *([device] if device else [])]
    joined = ".".join(parts)
    if all(_PART.fullmatch(part) for part in parts) and IDENTIFIER.fullmatch(joined):
        return joined
    return identifier("/".join(parts) + ("" if len(parts) > 1 else "/"))


def title(found: Address, device: str, *, with_group: bool) -> str:
    """As people know it."""
    parts = [*([found.group] if with_group else []), found.edge, *([device] if device else [])]
    return "/".join(parts)
