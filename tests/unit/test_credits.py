"""Prices, the threshold, and what the self-check finds."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from gateway.model.connection import State
from gateway.model.credits import (
    Account,
    Book,
    CapacityExcess,
    Holding,
    Pool,
    became_low,
    disagreements,
    places,
    price,
)
from gateway.settings import CreditsSettings

A = Account


@pytest.mark.parametrize(
    ("tier", "hosting", "credits_wanted"),
    [
        (1, "cloud", 1),
        (2, "cloud", 2),
        (3, "cloud", 4),
        (1, "on_premises", 2),
        (2, "on_premises", 4),
        (3, "on_premises", 8),
    ],
)
def test_a_connection_costs_by_tier_and_double_on_premises(
    tier: int, hosting: str, credits_wanted: int
) -> None:
    assert price(CreditsSettings(), tier=tier, hosting=hosting) == credits_wanted


def test_prices_are_configuration_and_a_tier_that_it_does_not_name_keeps_its_price() -> None:
    tariff = CreditsSettings.model_validate({"tier_price": {"1": 3}, "on_premises_multiplier": 5})
    assert [price(tariff, tier=tier, hosting="on_premises") for tier in (1, 2, 3)] == [15, 10, 20]


@pytest.mark.parametrize(
    "section",
    [
        {"capacity": -1},
        {"tier_price": {1: -1}},
        {"customer_quota": {"acme": -1}},
        {"customer_quota": {"a/b": 1}},
    ],
)
def test_nothing_negative_can_be_configured(section: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CreditsSettings.model_validate(section)


def test_the_pool_becomes_low_once_for_each_crossing() -> None:
    def pool(used: int, capacity: int = 10) -> Pool:
        return Pool(capacity=capacity, held=used // 2, posted=used - used // 2)

    assert not became_low(pool(0), pool(7))
    assert became_low(pool(7), pool(8))
    assert not became_low(pool(8), pool(10))
    assert not became_low(pool(8), pool(7))
    assert became_low(pool(7), pool(7, capacity=8))
    assert pool(12).available == 0


@pytest.mark.parametrize("state", State)
def test_every_state_says_where_its_credits_lie(state: State) -> None:
    where = places(state, State.PENDING if state is State.VERIFYING else None, is_waiting=True)
    expected = {
        State.PENDING: {A.HELD},
        State.VERIFYING: {A.HELD},
        State.DISCONNECTED: {None},
        State.DISCONNECTING: {A.HELD, A.POSTED, None},
    }
    assert where == expected.get(state, {A.POSTED})


GOOD = Holding(
    connection="c",
    customer="acme",
    tier=3,
    state=State.ACTIVE,
    prior=None,
    is_waiting=False,
    price=4,
    account=A.POSTED,
    amount=4,
    since=datetime(2026, 5, 4, tzinfo=UTC),
    ledger_held=0,
    ledger_posted=4,
)
NOTHING = replace(GOOD, account=None, amount=0, since=None, ledger_posted=0)


def book(*holdings: Holding, held: int = 0, posted: int = 4, excess: CapacityExcess | None = None) -> Book:
    return Book(pool=Pool(capacity=10, held=held, posted=posted), quotas={}, holdings=holdings, excess=excess)


@pytest.mark.parametrize(
    "right",
    [
        book(GOOD),
        book(replace(NOTHING, state=State.DISCONNECTED), posted=0),
        book(replace(NOTHING, state=State.PENDING), posted=0),
        book(replace(NOTHING, price=0), posted=0),
        book(replace(GOOD, state=State.VERIFYING, prior=State.BLOCKED)),
        book(
            replace(
                GOOD,
                state=State.VERIFYING,
                prior=State.PENDING,
                account=A.HELD,
                ledger_held=4,
                ledger_posted=0,
            ),
            held=4,
            posted=0,
        ),
        replace(book(GOOD), pool=Pool(capacity=3, held=0, posted=4)),
    ],
    ids=["posted", "returned", "lapsed", "free", "verified again", "held", "capacity lowered"],
)
def test_books_that_agree_say_nothing(right: Book) -> None:
    assert disagreements(right) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (replace(book(GOOD), pool=None), "no row"),
        (book(GOOD, posted=5), "the pool says 5 posted, the transfers sum to 4"),
        (book(GOOD, posted=5), "the pool says 5 posted, the connections have 4"),
        (book(replace(GOOD, ledger_posted=0)), "c: has 4 posted, its transfers sum to 0"),
        (
            book(replace(NOTHING, ledger_posted=-4), posted=-4),
            "c: the transfers leave -4 posted: an account is never negative",
        ),
        (book(GOOD, posted=-1), "the pool says -1 posted: an account is never negative"),
        (book(NOTHING, posted=0), "c: is active and has no credits; its price is 4"),
        (book(replace(GOOD, state=State.DISCONNECTED)), "c: is disconnected and has 4 posted"),
        (book(replace(GOOD, state=State.PENDING)), "c: is pending and has 4 posted"),
        (
            book(replace(NOTHING, state=State.PENDING, is_waiting=True), posted=0),
            "c: is pending and has no credits",
        ),
        (book(replace(GOOD, state=State.VERIFYING, prior=State.PENDING)), "c: is verifying and has 4 posted"),
        (book(replace(GOOD, price=8)), "c: has 4 posted, and its price is 8"),
        (book(replace(GOOD, state=None, tier=None)), "c: has 4 posted, and there is no such connection"),
        (
            book(GOOD, excess=CapacityExcess(number=7, used=12, capacity=10)),
            "transfer 7 took what was used to 12 of 10: over capacity",
        ),
    ],
)
def test_every_contradiction_is_found(wrong: Book, said: str) -> None:
    assert any(said in text for text in disagreements(wrong)), disagreements(wrong)
