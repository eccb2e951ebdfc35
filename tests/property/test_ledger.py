"""Random lives of several connections, on a real PostgreSQL, against a ledger of a few lines: every sum is
exact at every step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.model.credits import Account
from gateway.model.errors import CreditsInsufficient
from gateway.model.event import NewEvent
from gateway.settings import CreditsSettings
from gateway.store import credits as ledger
from gateway.store.pool import Database
from tests.fixtures.ledger import Ledger, record_events

PRICES = {"acme_a": 1, "acme_b": 4, "acme_c": 8, "globex_a": 2, "globex_b": 3, "globex_c": 0}
EMPTY = (
    "set session_replication_role = replica; truncate credit_transfer, connection_credit, connection,"
    " customer cascade; reset session_replication_role"
)

names = st.sampled_from(sorted(PRICES))
steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["hold", "hold", "post", "return", "wait"]), names),
        st.tuples(st.just("lapse"), st.none()),
        st.tuples(st.just("capacity"), st.integers(0, 20)),
    ),
    min_size=5,
    max_size=30,
)


@dataclass
class Model:
    """What should be. `waited`: pending for longer than credits are held."""

    capacity: int
    quota: int
    lying: dict[str, Account] = field(default_factory=dict)
    pending: set[str] = field(default_factory=set)
    waited: set[str] = field(default_factory=set)
    crossings: int = 0

    def used(self, customer: str = "") -> int:
        return sum(PRICES[name] for name in self.lying if name.startswith(customer))

    def is_low(self) -> bool:
        return self.used() * 5 >= self.capacity * 4

    def take(self, name: str) -> bool:
        """Whether the connection has credits now."""
        fits = self.used() + PRICES[name] <= self.capacity
        fits = fits and (not name.startswith("globex") or self.used("globex") + PRICES[name] <= self.quota)
        if name not in self.lying and fits:
            was = self.is_low()
            self.lying[name] = Account.HELD
            self.crossings += self.is_low() and not was
        return name in self.lying

    def resize(self, capacity: int) -> None:
        was, self.capacity = self.is_low(), capacity
        self.crossings += self.is_low() and not was


async def step(books: Ledger, model: Model, verb: str, value: object) -> None:
    name = str(value)
    match verb:
        case "hold":
            taken = model.take(name)
            assert await accepted(books.hold(name)) is taken
            if taken and model.lying[name] is Account.HELD:
                model.pending.add(name)
        case "post":
            taken = model.take(name)
            assert await accepted(books.post(name)) is taken
            if taken:
                model.lying[name] = Account.POSTED
                model.pending.discard(name)
                model.waited.discard(name)
        case "return":
            expected = PRICES[name] if name in model.lying else 0
            assert await books.give_back(name) == expected
            model.lying.pop(name, None)
            model.pending.discard(name)
            model.waited.discard(name)
        case "wait":
            await books.wait(name)
            model.waited |= {name} & model.pending
        case "lapse":
            due = {other for other in model.waited if model.lying.get(other) is Account.HELD}
            assert await ledger.lapse(books.database) == sorted(due)
            for other in due:
                del model.lying[other]
        case _:
            assert isinstance(value, int)
            model.resize(value)
            books.settings = books.settings.model_copy(update={"capacity": value})
            await ledger.sync_capacity(books.database, books.settings)


async def accepted(operation: object) -> bool:
    try:
        await operation  # type: ignore[misc]
    except CreditsInsufficient:
        return False
    return True


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=steps, capacity=st.integers(0, 20), quota=st.integers(0, 6))
async def test_the_ledger_is_exact(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    plan: list[tuple[str, object]],
    capacity: int,
    quota: int,
) -> None:
    books = Ledger(database, CreditsSettings(capacity=capacity, customer_quota={"globex": quota}))
    await books.execute(EMPTY)
    await books.execute("update credit_pool set capacity = 1000, held = 0, posted = 0")
    await ledger.sync_capacity(database, books.settings)
    await books.add(**PRICES)
    told: list[NewEvent] = record_events(monkeypatch)
    model = Model(capacity, quota)
    for verb, value in plan:
        used = model.used()
        await step(books, model, verb, value)
        book = await ledger.read(database)
        assert {
            holding.connection: holding.account for holding in book.holdings if holding.account
        } == model.lying
        assert book.pool is not None and book.pool.used == model.used()
        assert min(book.pool.held, book.pool.posted) >= 0
        assert model.used() <= max(model.capacity, used)
        assert await ledger.audit(database) == []
        assert len(told) == model.crossings
