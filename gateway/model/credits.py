"""Connection credits: what a connection costs, how credits move between accounts, and where those of a
connection may lie. Pure.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from gateway.model.connection import State

TIERS = (1, 2, 3)

LOW_PERCENT = 80
"""Of the capacity: from here on the pool is low."""

HOLD_MINUTES = 15
"""How long the credits of a connection that waits for credentials are held."""


class Tariff(Protocol):
    """The prices of the configuration."""

    @property
    def tier_price(self) -> Mapping[Literal[1, 2, 3], int]:
        """Credits by tier, in the cloud."""

    @property
    def on_premises_multiplier(self) -> int:
        """How many times that on premises."""


class Account(enum.StrEnum):
    """Where credits lie. Each credit of the pool is in exactly one of the three."""

    AVAILABLE = "available"
    HELD = "held"
    POSTED = "posted"


class TransferKind(enum.StrEnum):
    """Why credits move."""

    HOLD = "hold"
    POST = "post"
    RETURN = "return"
    LAPSE = "lapse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The one row that decides, in credits. `used` may exceed `capacity` where that was lowered: then nothing
    new is held.
    """

    capacity: int
    held: int
    posted: int

    @property
    def used(self) -> int:
        """Held or posted."""
        return self.held + self.posted

    @property
    def available(self) -> int:
        """What a hold could still take; never negative."""
        return max(0, self.capacity - self.used)

    @property
    def is_low(self) -> bool:
        """Whether a person should be told before it is too late."""
        return self.used * 100 >= self.capacity * LOW_PERCENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One line of the ledger: written once, never changed. Their order by `number` is the order in which they
    were committed.
    """

    number: int
    at: datetime
    kind: TransferKind
    from_account: Account
    to_account: Account
    amount: int
    connection: str
    customer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What the database says of one connection's credits, from three sides: its state, its row, and the
    ledger.

    `account` is None where it has no credits; `since` is when they came there. `state` is None where there is
    no such connection. `is_waiting`: it has been pending for less than the time that credits are held.
    `ledger_*` are sums of transfers.
    """

    connection: str
    customer: str
    tier: int | None
    state: State | None
    prior: State | None
    is_waiting: bool
    price: int
    account: Account | None
    amount: int
    since: datetime | None
    ledger_held: int
    ledger_posted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A part of what is used: connections that have credits, and how many."""

    connections: int
    credits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityExcess:
    """The first hold that the ledger shows to have gone beyond the capacity of its moment."""

    number: int
    used: int
    capacity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """The whole ledger at one instant. `pool` is None where its row is missing; `quotas` are credits by
    customer.
    """

    pool: Pool | None
    quotas: Mapping[str, int]
    holdings: Sequence[Holding]
    excess: CapacityExcess | None


def price(tariff: Tariff, *, tier: int, hosting: str) -> int:
    """Credits that a connection costs: by tier, and a multiple on premises."""
    return {int(known): amount for known, amount in tariff.tier_price.items()}[tier] * (
        tariff.on_premises_multiplier if hosting == "on_premises" else 1
    )


def became_low(before: Pool, after: Pool) -> bool:
    """Whether the step between the two crossed the threshold: once for each crossing."""
    return after.is_low and not before.is_low


def by_tier(book: Book) -> dict[int, Share]:
    """What is used, by tier; every tier."""
    return {tier: _share(holding for holding in book.holdings if holding.tier == tier) for tier in TIERS}


def by_customer(book: Book) -> dict[str, Share]:
    """What is used, by customer, in order; customers that have credits or a quota."""
    names = {holding.customer for holding in book.holdings if holding.account is not None} | set(book.quotas)
    return {
        name: _share(holding for holding in book.holdings if holding.customer == name)
        for name in sorted(names)
    }


def _share(holdings: Iterable[Holding]) -> Share:
    having = [holding for holding in holdings if holding.account is not None]
    return Share(connections=len(having), credits=sum(holding.amount for holding in having))


def places(state: State, prior: State | None, *, is_waiting: bool) -> frozenset[Account | None]:
    """Where the credits of a connection in this state may lie. None: it has none.

    A hold lapses in `pending` once it is no longer waited for, so both are right there; `disconnecting` is
    reached from every state.
    """
    match state:
        case State.PENDING:
            return frozenset({Account.HELD}) if is_waiting else frozenset({Account.HELD, None})
        case State.VERIFYING:
            return frozenset({Account.HELD}) if prior is State.PENDING else frozenset({Account.POSTED})
        case State.DISCONNECTING:
            return frozenset({Account.HELD, Account.POSTED, None})
        case State.DISCONNECTED:
            return frozenset({None})
        case State.ACTIVE | State.DEGRADED | State.REAUTHORIZATION_REQUIRED | State.BLOCKED | State.PAUSED:
            return frozenset({Account.POSTED})


def disagreements(book: Book) -> list[str]:
    """Everything in which pool, ledger, connections' credits and connections' states contradict each other;
    nothing when all is well.

    A capacity lowered below what is used is no contradiction: the ledger shows whether each hold fitted the
    capacity of its moment.
    """
    return [*_of_the_pool(book), *(text for holding in book.holdings for text in _of_a_connection(holding))]


def _of_the_pool(book: Book) -> Iterator[str]:
    if book.pool is None:
        yield "the pool has no row: every hold is refused"
        return
    for account, kept, moved in (
        (Account.HELD, book.pool.held, sum(holding.ledger_held for holding in book.holdings)),
        (Account.POSTED, book.pool.posted, sum(holding.ledger_posted for holding in book.holdings)),
    ):
        lying = sum(holding.amount for holding in book.holdings if holding.account is account)
        if kept < 0:
            yield f"the pool says {kept} {account}: an account is never negative"
        if kept != moved:
            yield f"the pool says {kept} {account}, the transfers sum to {moved}"
        if kept != lying:
            yield f"the pool says {kept} {account}, the connections have {lying}"
    if book.excess is not None:
        yield (
            f"transfer {book.excess.number} took what was used to {book.excess.used} of"
            f" {book.excess.capacity}: over capacity"
        )


def _of_a_connection(holding: Holding) -> Iterator[str]:
    name = holding.connection
    for account, moved in ((Account.HELD, holding.ledger_held), (Account.POSTED, holding.ledger_posted)):
        has = holding.amount if holding.account is account else 0
        if moved < 0:
            yield f"{name}: the transfers leave {moved} {account}: an account is never negative"
        elif moved != has:
            yield f"{name}: has {has} {account}, its transfers sum to {moved}"
    if holding.state is None:
        if holding.account is not None:
            yield f"{name}: has {holding.amount} {holding.account}, and there is no such connection"
    elif holding.account not in places(holding.state, holding.prior, is_waiting=holding.is_waiting) and (
        holding.price or holding.amount
    ):
        found = "no credits" if holding.account is None else f"{holding.amount} {holding.account}"
        yield f"{name}: is {holding.state} and has {found}; its price is {holding.price}"
    elif holding.account is not None and holding.amount != holding.price:
        yield f"{name}: has {holding.amount} {holding.account}, and its price is {holding.price}"
