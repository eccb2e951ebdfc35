"""Who somebody is that an identity provider vouches for, and what they may do here. Pure: signatures, keys
and requests are `gateway.identity`'s.

Source: OpenID Connect Core 1.0 (2, 3.1.3.7, 5.1, 5.3.2); OpenID Connect Back-Channel Logout 1.0 (2.4).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from gateway.model.access import Principal, Role
from gateway.model.errors import FieldgateError
from gateway.model.topics import IDENTIFIER

LOGIN_SECONDS = 900.0
"""From the departure to the return."""

MAX_NAME_LENGTH = 200
MAX_VALUES = 10_000
"""Of one claim: groups of a person."""


class LoginRefused(FieldgateError):
    """Nobody is logged in, or out. The text is for whoever tried and repeats nothing that a stranger may
    choose; `reason` is a slug of a closed set, for the log; `detail` for the log too.
    """

    def __init__(self, reason: str, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.detail = detail or message


class ProviderAway(FieldgateError):
    """The identity provider cannot be asked now. Who has a token or a one-time link gets in meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginDeparture:
    """To the provider. `kept` is for a cookie of this browser only."""

    url: str = field(repr=False)
    kept: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenLogin:
    """Somebody whom the provider vouches for, as it names them (`issuer`, `subject`) and their session there
    (`sid`, where it says one). `state`: to be used once, until `void_at`.
    """

    principal: Principal
    issuer: str
    subject: str
    sid: str | None
    issued_at: datetime
    """By the provider's clock, when it vouched for them."""
    next_path: str
    state: str = field(repr=False)
    void_at: datetime
    lasts: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenLogout:
    """The provider says that a session there has ended (`sid`), or all of a person (`subject` alone); one of
    the two is there. `token_id`: to be used once, until `void_at`.
    """

    issuer: str
    subject: str | None
    sid: str | None
    issued_at: datetime
    """By the provider's clock."""
    token_id: str
    void_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityRules:
    """What of the claims counts. `roles`: the values that make each role; `customers`: the customer that a
    value stands for (none given: a value is the customer's id itself); `unbound`: values of the roles' claim
    whose people see every customer, where others are bound by `customer_claim`.
    """

    name_claim: str
    roles_claim: str
    roles: Mapping[Role, frozenset[str]]
    customer_claim: str | None = None
    customers: Mapping[str, str] = field(default_factory=dict)
    unbound: frozenset[str] = frozenset()

    def missing(self, claims: Mapping[str, object]) -> bool:
        """Whether a claim that is needed is not there: the provider may say it elsewhere."""
        wanted = [self.name_claim, self.roles_claim]
        if self.customer_claim is not None and not self.unbound & values_of(claims, self.roles_claim):
            wanted.append(self.customer_claim)
        if self.name_claim == "email":
            wanted.append("email_verified")
        return any(_claim(claims, name) is None for name in wanted)


def principal_of(
    claims: Mapping[str, object], rules: IdentityRules, *, issuer: str, known: Collection[str] = ()
) -> Principal:
    """Who it is, with the highest role that the claims give. `known`: the customers that there are; empty:
    any. Raises LoginRefused.
    """
    given = values_of(claims, rules.roles_claim)
    roles = [role for role in Role if given & rules.roles.get(role, frozenset())]
    name = _name(claims, rules.name_claim, issuer)
    if not roles:
        raise LoginRefused(
            "no_role",
            f"{name} has no role here: the provider's claim `{rules.roles_claim}` holds none of the values"
            " that the configuration names. Ask whoever runs the gateway.",
            detail=f"{len(given)} values in the claim {rules.roles_claim}",
        )
    return Principal(name=name, role=roles[-1], customer=_customer(claims, rules, given, known, name))


def values_of(claims: Mapping[str, object], name: str) -> frozenset[str]:
    """The texts of a claim: one, a list of them, or the keys of an object, as some providers tell roles."""
    found = _claim(claims, name)
    if isinstance(found, str):
        return frozenset((found,))
    if isinstance(found, list | tuple | Mapping):
        return frozenset(value for value in list(found)[:MAX_VALUES] if isinstance(value, str))
    return frozenset()


def _claim(claims: Mapping[str, object], name: str) -> object:
    """By its whole name, which may have dots and be an address, else by its path."""
    if name in claims:
        return claims[name]
    found: object = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _name(claims: Mapping[str, object], claim: str, issuer: str) -> str:
    """As audits show the person. It always has an `@`, which no token's name has: nobody can choose at the
    provider to look like a token here.
    """
    found = _claim(claims, claim)
    if not isinstance(found, str) or not found.strip() or len(found) > MAX_NAME_LENGTH:
        raise LoginRefused(
            "no_name", f"The provider does not say `{claim}`, which the configuration names people by."
        )
    if not found.isprintable():
        raise LoginRefused("no_name", f"The provider's `{claim}` is nothing that can be shown.")
    # Source: OpenID Connect Core 1.0, 5.1: an address that nobody has verified is what the person typed
    if claim == "email" and _claim(claims, "email_verified") not in (True, "true"):
        raise LoginRefused(
            "email_not_verified",
            "The provider does not say that this address is verified, so it may be anybody's. Verify it"
            " there, or have `oidc.name_claim` name people by something else.",
        )
    name = found.strip()
    return name if "@" in name else f"{name}@{urlsplit(issuer).hostname}"


def _customer(
    claims: Mapping[str, object],
    rules: IdentityRules,
    given: frozenset[str],
    known: Collection[str],
    name: str,
) -> str | None:
    """Whose people they are; None: bound to none. What the provider does not say binds to nobody, so it lets
    nobody in.
    """
    if rules.customer_claim is None or given & rules.unbound:
        return None
    values = values_of(claims, rules.customer_claim)
    found = (
        {rules.customers[value] for value in values if value in rules.customers}
        if rules.customers
        else values
    )
    if len(found) != 1:
        raise LoginRefused(
            "no_customer" if not found else "several_customers",
            f"The provider's claim `{rules.customer_claim}` names"
            f" {'no customer' if not found else 'several customers'} for {name}, and one is needed.",
            detail=f"{len(values)} values in the claim {rules.customer_claim}",
        )
    (customer,) = found
    if not IDENTIFIER.fullmatch(customer) or (known and customer not in known):
        raise LoginRefused(
            "unknown_customer", f"The customer that the provider names for {name} is not one of this gateway."
        )
    return customer
