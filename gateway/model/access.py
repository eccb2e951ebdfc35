"""Who asks, and what they may do. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Role(enum.StrEnum):
    """A viewer reads; an operator also works connections; an admin also creates, changes and deletes."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def covers(self, needed: Role) -> bool:
        """Whether this role may do what needs `needed`."""
        return _RANKS[self] >= _RANKS[needed]


_RANKS = {role: place for place, role in enumerate(Role)}


class Origin(enum.StrEnum):
    """Who gave a setting or a credential. Trusted: whoever runs the gateway, by the file, a command or a
    token that is bound to no customer. Bound: a customer, by a token of theirs or a reconnect link; what that
    leads to obeys the address rules.
    """

    TRUSTED = "trusted"
    BOUND = "bound"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Whoever is on the other side of a request. `customer` None: bound to none, sees all."""

    name: str
    role: Role
    customer: str | None = None

    def may_see(self, customer: str | None) -> bool:
        """Whether what belongs to `customer` (None: to the gateway as a whole) exists for them."""
        return self.customer is None or self.customer == customer

    @property
    def origin(self) -> Origin:
        """Of what they give."""
        return Origin.TRUSTED if self.customer is None else Origin.BOUND


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who is named in the audit (`token:ci`, `command`, `file`, `link`, `gateway`), and whether what they
    give is trusted.
    """

    name: str
    request_id: str | None = None
    origin: Origin = Origin.TRUSTED
