"""The ledger on a real PostgreSQL: every move, its repetition, what is refused, and what is told."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from gateway import clock, metrics
from gateway.events.backlog import Backlog
from gateway.model.connection import State
from gateway.model.credits import Account, TransferKind
from gateway.model.errors import CreditsInsufficient, StoreError, StoreRejected
from gateway.model.event import EventType, NewEvent
from gateway.settings import CreditsSettings
from gateway.store import credits as ledger
from gateway.store import outbox
from gateway.store.pool import Database
from tests.fixtures.ledger import Ledger, record_events


@pytest.fixture
async def books(database: Database) -> Ledger:
    """A pool of 10 credits, of which globex may use 3."""
    books = Ledger(database, CreditsSettings(capacity=10, customer_quota={"globex": 3}))
    await ledger.sync_capacity(database, books.settings)
    await books.add(acme_a=4, acme_b=4, acme_c=4, globex_a=2, globex_b=2, acme_d=2)
    return books


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[NewEvent]:
    return record_events(monkeypatch)


async def test_credits_are_held_then_posted_then_returned(books: Ledger) -> None:
    for _ in range(2):
        await books.hold("acme_a")
        assert await books.held_and_posted() == (4, 0)
    for _ in range(2):
        await books.post("acme_a")
        assert await books.held_and_posted() == (0, 4)
    await books.hold("acme_a")
    assert await books.held_and_posted() == (0, 4)
    assert [await books.give_back("acme_a"), await books.give_back("acme_a")] == [4, 0]
    assert await books.held_and_posted() == (0, 0)
    lines = await ledger.transfers(books.database, limit=10)
    assert [(line.kind, line.from_account, line.to_account, line.amount) for line in reversed(lines)] == [
        (TransferKind.HOLD, Account.AVAILABLE, Account.HELD, 4),
        (TransferKind.POST, Account.HELD, Account.POSTED, 4),
        (TransferKind.RETURN, Account.POSTED, Account.AVAILABLE, 4),
    ]
    assert [
        line.number for line in await ledger.transfers(books.database, before=lines[0].number, limit=1)
    ] == [lines[1].number]
    assert await ledger.audit(books.database) == []


async def test_held_credits_are_returned_too(books: Ledger) -> None:
    await books.hold("acme_a")
    assert await books.give_back("acme_a") == 4
    assert await ledger.audit(books.database) == []


async def test_a_hold_beyond_the_capacity_is_refused_and_leaves_nothing(books: Ledger) -> None:
    await books.hold("acme_a")
    await books.hold("acme_b")
    with pytest.raises(CreditsInsufficient) as refused:
        await books.hold("acme_c")
    assert (refused.value.code, refused.value.connection, refused.value.customer) == (
        "credits.insufficient",
        "acme_c",
        None,
    )
    assert (refused.value.wanted, refused.value.used, refused.value.limit) == (4, 8, 10)
    assert await books.held_and_posted() == (8, 0)
    await books.hold("acme_d")
    assert await books.held_and_posted() == (10, 0)
    assert await ledger.audit(books.database) == []


async def test_a_customer_may_use_no_more_than_its_quota(books: Ledger) -> None:
    await books.hold("globex_a")
    with pytest.raises(CreditsInsufficient) as refused:
        await books.hold("globex_b")
    assert (refused.value.customer, refused.value.wanted, refused.value.used, refused.value.limit) == (
        "globex",
        2,
        2,
        3,
    )
    await books.hold("acme_a")
    await books.give_back("globex_a")
    await books.hold("globex_b")


async def test_the_stricter_of_two_configurations_counts(books: Ledger) -> None:
    other = Ledger(books.database, CreditsSettings(capacity=5, customer_quota={"acme": 3}))
    with pytest.raises(CreditsInsufficient):
        await other.hold("acme_a")
    generous = Ledger(books.database, CreditsSettings(capacity=1000))
    await generous.hold("globex_a")
    with pytest.raises(CreditsInsufficient):
        await generous.hold("globex_b")


async def test_quotas_hold_when_a_customers_connections_race(books: Ledger) -> None:
    names = [f"globex_{number}" for number in range(40)]
    await books.add(**dict.fromkeys(names, 1))
    answers = await asyncio.gather(*map(books.hold, names), return_exceptions=True)
    assert sum(answer is None for answer in answers) == 3
    assert all(answer is None or isinstance(answer, CreditsInsufficient) for answer in answers)


async def test_without_a_capacity_nothing_is_held(database: Database) -> None:
    books = Ledger(database)
    await books.add(acme_a=1, acme_b=0)
    with pytest.raises(CreditsInsufficient):
        await books.hold("acme_a")
    await books.hold("acme_b")
    assert await ledger.audit(database) == []
    await books.execute("delete from credit_pool")
    for name in ("acme_a", "acme_b"):
        with pytest.raises(CreditsInsufficient if name == "acme_a" else StoreError):
            await (books.hold(name) if name == "acme_a" else books.post(name))
    assert "the pool has no row: every hold is refused" in await ledger.audit(database)


async def test_a_negative_amount_is_refused(books: Ledger) -> None:
    async with books.database.transaction() as connection:
        with pytest.raises(CreditsInsufficient):
            await ledger.hold(
                connection, connection_id="acme_a", customer="acme", amount=-1, settings=books.settings
            )


async def test_a_rolled_back_hold_takes_nothing(books: Ledger) -> None:
    with pytest.raises(KeyError):
        async with books.database.transaction() as connection:
            await ledger.hold(
                connection, connection_id="acme_a", customer="acme", amount=4, settings=books.settings
            )
            raise KeyError
    assert await books.held_and_posted() == (0, 0)
    assert await ledger.transfers(books.database, limit=1) == []


async def test_a_lowered_capacity_refuses_new_holds_only(books: Ledger) -> None:
    await books.hold("acme_a")
    await books.hold("acme_b")
    lowered = books.settings.model_copy(update={"capacity": 3})
    pool = await ledger.sync_capacity(books.database, lowered)
    assert (pool.used, pool.capacity, pool.available) == (8, 3, 0)
    await books.post("acme_a")
    with pytest.raises(CreditsInsufficient):
        await books.hold("acme_d")
    assert await ledger.audit(books.database) == []
    await books.give_back("acme_a")
    await books.give_back("acme_b")
    await books.hold("acme_d")


async def test_only_what_waits_too_long_lapses_and_it_can_be_held_again(books: Ledger) -> None:
    for name in ("acme_a", "acme_b", "acme_d"):
        await books.hold(name)
    await books.post("acme_b")
    for name in ("acme_a", "acme_b"):
        await books.wait(name)
    async with books.database.transaction() as busy:
        await busy.execute("select from connection where connection_id = 'acme_a' for update")
        assert await ledger.lapse(books.database) == []
    assert await ledger.lapse(books.database) == ["acme_a"]
    assert await ledger.lapse(books.database) == []
    assert await books.held_and_posted() == (2, 4)
    assert (await ledger.transfers(books.database, limit=1))[0].kind is TransferKind.LAPSE
    assert await ledger.audit(books.database) == []
    await books.hold("acme_a")
    assert await books.held_and_posted() == (6, 4)


@pytest.mark.parametrize("state", ["verifying", "disconnecting"])
async def test_what_is_worked_on_does_not_lapse(books: Ledger, state: str) -> None:
    await books.hold("acme_a")
    await books.execute(
        "update connection set state = $1, prior_state = 'pending' where connection_id = 'acme_a'", state
    )
    await books.wait("acme_a")
    assert await ledger.lapse(books.database) == []
    assert await ledger.audit(books.database) == []


async def test_a_lapsed_hold_is_taken_anew_when_it_is_posted_or_refused(books: Ledger) -> None:
    await books.hold("acme_a")
    await books.wait("acme_a")
    await ledger.lapse(books.database)
    await books.post("acme_a")
    assert await books.held_and_posted() == (0, 4)
    await books.give_back("acme_a")
    await ledger.sync_capacity(books.database, books.settings.model_copy(update={"capacity": 3}))
    with pytest.raises(CreditsInsufficient):
        await books.post("acme_a")
    assert await books.held_and_posted() == (0, 0)
    async with books.database.transaction() as connection:
        with pytest.raises(StoreError, match="no such connection"):
            await ledger.post(connection, connection_id="nobody")


@pytest.mark.parametrize(
    "statement",
    ["update credit_transfer set amount = 1", "delete from credit_transfer", "truncate credit_transfer"],
)
async def test_the_ledger_is_append_only(books: Ledger, statement: str) -> None:
    await books.hold("acme_a")
    with pytest.raises(StoreRejected, match="append-only"):
        await books.execute(statement)


async def test_a_connection_that_has_credits_cannot_be_deleted(books: Ledger) -> None:
    await books.hold("acme_a")
    with pytest.raises(StoreRejected):
        await books.execute("delete from connection where connection_id = 'acme_a'")


async def test_low_is_told_once_for_each_crossing(books: Ledger, told: list[NewEvent]) -> None:
    await books.hold("acme_a")
    assert told == []
    await books.hold("acme_b")
    await books.hold("acme_d")
    [event] = told
    assert (event.type, event.customer, event.data) == (
        EventType.CREDITS_LOW,
        None,
        {"capacity": 10, "used": 8, "available": 2},
    )
    for name in ("acme_b", "acme_d"):
        await books.give_back(name)
    await books.hold("acme_b")
    assert len(told) == 2
    await ledger.sync_capacity(books.database, books.settings.model_copy(update={"capacity": 100}))
    await ledger.sync_capacity(books.database, books.settings.model_copy(update={"capacity": 9}))
    assert [event.type for event in told] == [EventType.CREDITS_LOW] * 3


async def test_a_refusal_is_told_once_a_minute_for_the_pool_and_for_each_quota(
    books: Ledger, told: list[NewEvent]
) -> None:
    await books.hold("globex_a")
    with pytest.raises(CreditsInsufficient) as quota:
        await books.hold("globex_b")
    for name in ("acme_a", "acme_b"):
        await books.hold(name)
    with pytest.raises(CreditsInsufficient) as pool:
        await books.hold("acme_c")
    told.clear()
    notes = [
        await ledger.note_refusal(books.database, refused.value) for refused in (quota, pool, quota, pool)
    ]
    assert notes == [True, True, False, False]
    assert [(event.type, event.customer) for event in told] == [(EventType.CREDITS_EXHAUSTED, None)] * 2
    assert [event.data for event in told] == [
        {"wanted": 2, "used": 2, "limit": 3, "of": "customer", "customer": "globex"},
        {"wanted": 4, "used": 10, "limit": 10, "of": "pool"},
    ]
    await books.execute("update credit_refusal set at = at - interval '61 s' where customer_id = ''")
    assert [await ledger.note_refusal(books.database, refused.value) for refused in (quota, pool)] == [
        False,
        True,
    ]


async def test_what_is_told_commits_with_the_hold_and_a_refusal_is_told_after_its_rollback(
    books: Ledger,
) -> None:
    async def told() -> list[EventType]:
        return [event.type for event in await outbox.read(books.database, customer=None)]

    await books.hold("acme_a")
    with pytest.raises(KeyError):
        async with books.database.transaction() as connection:
            await ledger.hold(
                connection, connection_id="acme_b", customer="acme", amount=4, settings=books.settings
            )
            raise KeyError
    assert await told() == []
    await books.hold("acme_b")
    assert await told() == [EventType.CREDITS_LOW]
    with pytest.raises(CreditsInsufficient) as refused:
        await books.hold("acme_c")
    assert await told() == [EventType.CREDITS_LOW]
    await ledger.note_refusal(books.database, refused.value)
    assert await told() == [EventType.CREDITS_LOW, EventType.CREDITS_EXHAUSTED]


TRANSFER = (
    "insert into credit_transfer"
    " (kind, from_account, to_account, amount, connection_id, customer_id, capacity)"
)
DAMAGE = {
    "update credit_pool set posted = posted + 1": "the pool says 5 posted, the transfers sum to 4",
    "update credit_pool set held = 0": "the pool says 0 held, the connections have 2",
    "delete from connection_credit where connection_id = 'acme_a'": (
        "acme_a: has 0 posted, its transfers sum to 4"
    ),
    "update connection_credit set amount = 3 where connection_id = 'acme_a'": (
        "acme_a: has 3 posted, its transfers sum to 4"
    ),
    "update connection set state = 'disconnected' where connection_id = 'acme_a'": (
        "acme_a: is disconnected and has 4 posted"
    ),
    "update connection set state = 'active' where connection_id = 'acme_b'": (
        "acme_b: is active and has no credits"
    ),
    "update connection set price = 8 where connection_id = 'acme_a'": (
        "acme_a: has 4 posted, and its price is 8"
    ),
    TRANSFER + " values ('return', 'posted', 'available', 9, 'gone', 'acme', 10)": (
        "gone: the transfers leave -9 posted"
    ),
    TRANSFER + " values ('hold', 'available', 'held', 9, 'gone', 'acme', 10)": (
        "took what was used to 15 of 10: over capacity"
    ),
    "delete from credit_pool": "the pool has no row",
}


@pytest.mark.parametrize("statement", DAMAGE, ids=list(DAMAGE.values()))
async def test_the_self_check_finds_damage(books: Ledger, statement: str) -> None:
    await books.hold("acme_a")
    await books.post("acme_a")
    await books.hold("acme_d")
    assert await ledger.audit(books.database) == []
    await books.execute(statement)
    assert any(DAMAGE[statement] in found for found in await ledger.audit(books.database)), (
        await ledger.audit(books.database)
    )


REPAIRS = re.findall(
    r"```sql\n(.*?)```", (Path(__file__).parents[2] / "docs" / "credits.md").read_text(), re.DOTALL
)


async def test_the_repairs_of_the_documentation_repair(books: Ledger) -> None:
    recount, give_back = REPAIRS
    await books.hold("acme_a")
    await books.post("acme_a")
    await books.hold("acme_d")
    await books.execute("update credit_pool set posted = 9, held = 0")
    await books.execute(recount)
    assert await ledger.audit(books.database) == []
    await books.execute("update connection set state = 'disconnected' where connection_id = 'acme_a'")
    assert await ledger.audit(books.database) != []
    await books.execute(give_back.replace("'ID'", "'acme_a'"))
    await books.execute(recount)
    assert await ledger.audit(books.database) == []
    assert await books.held_and_posted() == (2, 0)


async def test_the_gauges_show_capacity_and_use_and_disagreements(books: Ledger) -> None:
    def value(name: str, **labels: str) -> float | None:
        return metrics.REGISTRY.get_sample_value(f"fieldgate_credits_{name}", labels)

    await books.execute("update connection set tier = 3 where connection_id = 'acme_a'")
    await books.hold("acme_a")
    await books.hold("acme_d")
    backlog = Backlog(books.database)
    await backlog.refresh()
    assert (value("capacity"), value("disagreements")) == (10, 0)
    assert [value("used", tier=tier) for tier in "123"] == [2, 0, 4]
    await books.execute("update credit_pool set posted = 1")
    await backlog.audit()
    assert value("disagreements") == 2
    await books.execute("update credit_pool set posted = 0")
    await backlog.audit()
    assert value("disagreements") == 0


async def test_a_book_shows_each_connection(books: Ledger) -> None:
    await books.hold("acme_a")
    book = await ledger.read(books.database)
    [holding] = [holding for holding in book.holdings if holding.account is not None]
    assert (holding.connection, holding.customer, holding.state, holding.account, holding.amount) == (
        "acme_a",
        "acme",
        State.PENDING,
        Account.HELD,
        4,
    )
    assert holding.is_waiting and holding.since is not None
    assert book.quotas == {"globex": 3}


async def test_credits_are_added_up_and_audited_when_they_have_moved(
    books: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both read every connection's: an idle gateway does not, every few seconds."""
    moment, done = [1000.0], list[str]()
    usage, audit = ledger.usage, ledger.audit

    async def counting(database: Database) -> object:
        done.append("usage")
        return await usage(database)

    async def auditing(database: Database) -> object:
        done.append("audit")
        return await audit(database)

    monkeypatch.setattr(clock, "monotonic", lambda: moment[0])
    monkeypatch.setattr(ledger, "usage", counting)
    monkeypatch.setattr(ledger, "audit", auditing)
    backlog = Backlog(books.database)

    async def after(seconds: float) -> list[str]:
        done.clear()
        moment[0] += seconds
        await backlog.refresh()
        return sorted(done)

    assert await after(0) == ["audit", "usage"]
    assert await after(5) == []
    assert await after(61) == []
    await books.hold("acme_a")
    assert await after(5) == ["audit", "usage"]
    await books.hold("acme_d")
    assert await after(5) == ["usage"]
    assert await after(61) == ["audit"]
    assert await after(590) == []
    assert await after(15) == ["audit"]
